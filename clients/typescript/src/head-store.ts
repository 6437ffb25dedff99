import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rmdir, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The last head of the log that was seen, and the keys under which it was trusted. */
export interface KeptHead {
  /** The head, a signed note. */
  readonly signedNote: string;
  /** The verifier keys, each `name+keyid+base64`. */
  readonly verifierKeys: readonly string[];
}

/**
 * Where the last head is kept: out of the reach of whoever operates the server, or it proves nothing against them. Many processes may
 * share one: what one of them has kept is never replaced by another that has not seen it.
 */
export interface HeadStore {
  /** What was kept; undefined for nothing yet. What is there and cannot be read is an error, never nothing. */
  load(): Promise<KeptHead | undefined>;
  /**
   * Replaces what was kept, as a whole or not at all, and durably; but only if it still is what was loaded.
   *
   * @param head - The newer head.
   * @param replaced - What was loaded, told apart by its signed note; undefined for nothing.
   * @returns Whether it did. False changes nothing: another was kept meanwhile, and is to be loaded before anything is saved.
   */
  save(head: KeptHead, replaced: KeptHead | undefined): Promise<boolean>;
  /** Keeps a head that contradicts the one kept, beside it: evidence. */
  saveRejected(signedNote: string): Promise<void>;
}

/** How long one holder of a lock is waited for, who needs milliseconds, before it is taken to have crashed. */
const CRASHED_MS = 2_000;
/** How long all of them together are waited for. */
const LOCKED_MS_MAX = 30_000;
const POLL_MS = 5;

/**
 * Keeps the head in a file, as `aegis head watch --state` does. Processes that share the file share what they know: each takes over
 * what another has kept there, once it is proven to continue its own.
 *
 * @remarks
 * All who write the file, in whatever language, do it alike. A draft, of a name that no other has, is written in a directory of its own,
 * which is then renamed to `FILE.lock`: that succeeds for one at a time, since no directory is renamed over one that is not empty. Whoever
 * holds the lock so compares what is kept, and renames the draft out of the lock over the file. A holder that crashed leaves its draft
 * there, and one who has waited for it long enough takes the draft away. Was it slow and not dead, it no longer finds its draft and has
 * replaced nothing: so no clock and no pause can make two of them write. What a crash leaves elsewhere, a `FILE.*.part`, hinders nobody.
 */
export class FileHeadStore implements HeadStore {
  readonly #path: string;
  readonly #lock: string;

  /** @param path - The file. It is made when the first head is kept; its directory must be there. */
  constructor(path: string) {
    this.#path = path;
    this.#lock = `${path}.lock`;
  }

  async load(): Promise<KeptHead | undefined> {
    let text: string;
    try {
      text = await readFile(this.#path, "utf8");
    } catch (e) {
      if (isMissing(e)) return undefined;
      throw e;
    }
    try {
      const { signed_note: signedNote, verifier_keys: verifierKeys } = JSON.parse(text);
      if (typeof signedNote === "string" && Array.isArray(verifierKeys)) return { signedNote, verifierKeys };
    } catch {
      // Told below.
    }
    // Never written over: it may be all that is left to compare with.
    throw new Error(`${this.#path} does not hold a head that was kept. Look at it before you move it away.`);
  }

  /** @throws Error: the file cannot be read or written, or others held its lock for half a minute. */
  async save(head: KeptHead, replaced: KeptHead | undefined): Promise<boolean> {
    const state = { signed_note: head.signedNote, verifier_keys: head.verifierKeys };
    const draft = randomBytes(8).toString("hex");
    const directory = `${this.#path}.${draft}.part`;
    await mkdir(directory);
    try {
      await writeNew(join(directory, draft), `${JSON.stringify(state, undefined, 2)}\n`);
      await this.#takeLock(directory);
      if ((await this.load())?.signedNote !== replaced?.signedNote) return false;
      try {
        await rename(join(this.#lock, draft), this.#path);
      } catch (e) {
        // Taken away by who took this for a crashed one.
        if (isMissing(e)) return false;
        throw e;
      }
    } finally {
      // The lock may be another's by now: its draft has another name, and a directory that holds one is not removed.
      for (const each of [directory, this.#lock]) {
        await unlink(join(each, draft)).catch(() => undefined);
        await rmdir(each).catch(() => undefined);
      }
    }
    await syncDirectory(dirname(this.#path));
    return true;
  }

  async saveRejected(signedNote: string): Promise<void> {
    await replaceFile(`${this.#path}.rejected`, signedNote);
  }

  async #takeLock(directory: string): Promise<void> {
    const began = performance.now();
    let holder: string | undefined;
    let heldSince = began;
    for (;;) {
      let cause: unknown;
      try {
        await rename(directory, this.#lock);
        return;
      } catch (e) {
        // It is held, which not all systems tell by the same code; whatever else it may be is told in the end.
        cause = e;
      }
      const now = performance.now();
      if (now - began > LOCKED_MS_MAX) {
        const message = `${this.#lock} is held by others; where nobody writes ${this.#path} any more, remove it.`;
        throw new Error(message, { cause });
      }
      const [other] = await readdir(this.#lock).catch(() => []);
      if (other !== holder) [holder, heldSince] = [other, now];
      if (other === undefined) await rmdir(this.#lock).catch(() => undefined);
      else if (now - heldSince > CRASHED_MS) await unlink(join(this.#lock, other)).catch(() => undefined);
      await sleep(POLL_MS * (0.5 + Math.random()));
    }
  }
}

/** Keeps the head in memory: what is taken back while this process runs is noticed, and nothing after that. */
export class MemoryHeadStore implements HeadStore {
  #head: KeptHead | undefined;

  /** The head that was rejected last, a signed note. */
  rejected: string | undefined;

  async load(): Promise<KeptHead | undefined> {
    return this.#head;
  }

  async save(head: KeptHead, replaced: KeptHead | undefined): Promise<boolean> {
    if (this.#head?.signedNote !== replaced?.signedNote) return false;
    this.#head = head;
    return true;
  }

  async saveRejected(signedNote: string): Promise<void> {
    this.rejected = signedNote;
  }
}

/** Replaces a file as a whole or leaves it; what it holds then is on the disk. */
export async function replaceFile(path: string, content: string | AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await writeNew(temporary, content);
    await rename(temporary, path);
  } catch (e) {
    await unlink(temporary).catch(() => undefined);
    throw e;
  }
  await syncDirectory(dirname(path));
}

/** Writes a file that is not there yet, down to the disk. */
async function writeNew(path: string, content: string | AsyncIterable<Uint8Array>): Promise<void> {
  const file = await open(path, "wx", 0o644);
  try {
    if (typeof content === "string") await file.writeFile(content);
    else for await (const piece of content) await file.writeFile(piece);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } catch {
    // Some systems cannot: there the new name may be lost in a crash, and the old file is whole.
  } finally {
    await directory.close();
  }
}

function isMissing(e: unknown): boolean {
  return (e as NodeJS.ErrnoException).code === "ENOENT";
}
