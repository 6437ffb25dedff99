// DBOS: workflows of many durable steps. A step whose result is kept is what a transition is to the other peers.
import { DBOS } from '@dbos-inc/dbos-sdk';
import { main, measure, run, settings, stateAt } from './measure.mjs';

const stepsPerWorkflow = 100;

// Set once, before the first workflow runs.
let isOver;
let done;

async function work() {
    // Asking for the time makes the number of steps depend on it: a workflow that is recovered might go on for more or fewer.
    for (let step = 1; step <= stepsPerWorkflow && !isOver(); step++) {
        await DBOS.runStep(async () => stateAt(step), { name: 'move' });
        done();
    }
}

const workflow = DBOS.registerWorkflow(work, { name: 'work' });

await main(async () => {
    const options = settings(['put']);
    DBOS.setConfig({
        name: 'aegis-benchmark-peer',
        systemDatabaseUrl: options.database,
        systemDatabasePoolSize: options.callers,
        logLevel: 'error',
    });
    await DBOS.launch();
    await measure(options, async (caller, over, counted) => {
        [isOver, done] = [over, counted];
        for (let n = 0; !over(); n++) {
            const handle = await DBOS.startWorkflow(workflow, { workflowID: `${run}-${caller}-${n}` })();
            await handle.getResult();
        }
    });
    await DBOS.shutdown();
});
