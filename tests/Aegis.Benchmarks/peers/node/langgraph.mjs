// LangGraph's checkpointer for PostgreSQL: put saves a checkpoint of a thread, get reads its latest.
import { emptyCheckpoint, uuid6 } from '@langchain/langgraph-checkpoint';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import pg from 'pg';
import { main, measure, run, settings, stateAt } from './measure.mjs';

// A thread is left for the next after as many steps as a workflow of the other peers has moves.
const stepsPerThread = 100;
const threadsPerCaller = 20;
const stepsPerFilledThread = 10;

const nameOf = (caller, n) => `${run}-${caller}-${n}`;

/** Saves the next checkpoint of a thread as a graph's loop does: one channel changed, the others only named. */
async function step(saver, { config, checkpoint, step }) {
    const version = step + 1;
    const next = {
        ...checkpoint,
        id: uuid6(step),
        ts: new Date().toISOString(),
        channel_values: { state: stateAt(step) },
        channel_versions: { __start__: 1, state: version, 'branch:to:work': version },
        versions_seen: { __input__: {}, __start__: { __start__: 1 }, work: { 'branch:to:work': step } },
    };
    const metadata = { source: 'loop', step, parents: {} };
    return { config: await saver.put(config, next, metadata, { state: version }), checkpoint: next, step: version };
}

const begin = (thread) => ({
    config: { configurable: { thread_id: thread, checkpoint_ns: '' } },
    checkpoint: emptyCheckpoint(),
    step: 1,
});

const put = (saver) => async (caller, isOver, done) => {
    for (let n = 0; !isOver(); n++) {
        let thread = begin(nameOf(caller, n));
        for (let i = 0; i < stepsPerThread && !isOver(); i++) {
            thread = await step(saver, thread);
            done();
        }
    }
};

const get = (saver) => async (caller, isOver, done) => {
    for (let n = 0; !isOver(); n++) {
        const thread_id = nameOf(caller, n % threadsPerCaller);
        const tuple = await saver.getTuple({ configurable: { thread_id, checkpoint_ns: '' } });
        if (tuple.checkpoint.channel_values.state.step !== stepsPerFilledThread) {
            throw new Error(`not the latest checkpoint of ${thread_id}`);
        }
        done();
    }
};

async function fill(saver, callers) {
    await Promise.all(Array.from({ length: callers }, async (_, caller) => {
        for (let n = 0; n < threadsPerCaller; n++) {
            let thread = begin(nameOf(caller, n));
            for (let i = 0; i < stepsPerFilledThread; i++) {
                thread = await step(saver, thread);
            }
        }
    }));
}

await main(async () => {
    const options = settings(['put', 'get']);
    const pool = new pg.Pool({ connectionString: options.database, max: options.callers });
    const saver = new PostgresSaver(pool);
    await saver.setup();
    if (options.mode === 'get') {
        await fill(saver, options.callers);
    }
    await measure(options, options.mode === 'get' ? get(saver) : put(saver));
    await saver.end();
});
