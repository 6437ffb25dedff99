// What every peer written for Node shares: its command line, its state, and how its callers are counted.
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';

/** PROGRAM [put|get] --callers 32 --seconds 5 --warm 2, with the database in PEER_DATABASE. */
export function settings(modes) {
    const { values, positionals } = parseArgs({
        allowPositionals: true,
        options: {
            callers: { type: 'string', default: '32' },
            seconds: { type: 'string', default: '5' },
            warm: { type: 'string', default: '2' },
        },
    });
    const mode = positionals[0] ?? modes[0];
    if (!modes.includes(mode) || positionals.length > 1) {
        throw new Error(`expected one of: ${modes.join(', ')}`);
    }
    const database = process.env.PEER_DATABASE;
    if (!database) {
        throw new Error('PEER_DATABASE is not set');
    }
    const [callers, seconds, warm] = ['callers', 'seconds', 'warm'].map((name) => Number(values[name]));
    if (!(Number.isInteger(callers) && callers > 0 && seconds > 0 && warm >= 0)) {
        throw new Error('--callers must be a positive number, and so --seconds; --warm may be 0');
    }
    return { mode, database, callers, seconds, warm };
}

/** Begins every id of this run, so that runs on one database never meet. */
export const run = randomBytes(6).toString('hex');

const filler = 'x'.repeat(1024);

/** A state that is 1 KiB as JSON, and another at every step. */
export function stateAt(step) {
    const length = JSON.stringify({ step, text: '' }).length;
    return { step, text: filler.slice(length) };
}

/**
 * Lets the callers work for the warm seconds and then for those that count, and prints the one line.
 * @param call told who it is, when to stop and what to call after each piece of durable work.
 */
export async function measure({ callers, seconds, warm }, call) {
    const begin = performance.now() + warm * 1000;
    const end = begin + seconds * 1000;
    let count = 0;
    const isOver = () => performance.now() >= end;
    const done = () => {
        const now = performance.now();
        if (now >= begin && now < end) {
            count++;
        }
    };
    await Promise.all(Array.from({ length: callers }, (_, caller) => call(caller, isOver, done)));
    console.log(JSON.stringify({ count, seconds }));
}

/** Runs the program: whatever fails is told on stderr, and by the exit code. */
export async function main(program) {
    // The driver warns of what its next version will no longer take from its callers, whose code is not ours.
    process.noDeprecation = true;
    try {
        await program();
        process.exit(0);
    } catch (e) {
        console.error(e);
        process.exit(1);
    }
}
