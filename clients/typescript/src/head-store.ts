import { randomBytes } from "node:crypto";
import { open, readFile, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";

/** The last head of the log that was seen, and the keys under which it was trusted. */
export interface KeptHead {
  /** The head, a signed note. */
  readonly signedNote: string;
  /** The verifier keys, each `name+keyid+base64`. */
  readonly verifierKeys: readonly string[];
}

/** Where the last head is kept: out of the reach of whoever operates the server, or it proves nothing against them. */
export interface HeadStore {
  /** What was kept; undefined for nothing yet. What is there and cannot be read is an error, never nothing. */
  load(): Promise<KeptHead | undefined>;
  /** Replaces what was kept, as a whole or not at all, and durably. */
  save(head: KeptHead): Promise<void>;
  /** Keeps a head that contradicts the one kept, beside it: evidence. */
  saveRejected(signedNote: string): Promise<void>;
}

/**
 * Keeps the head in a file, as `aegis head watch --state` does. Processes that share the file share what they know: each takes over
 * what another has kept there, once it is proven to continue its own.
 */
export class FileHeadStore implements HeadStore {
  readonly #path: string;

  /** @param path - The file. It is made when the first head is kept; its directory must be there. */
  constructor(path: string) {
    this.#path = path;
  }

  async load(): Promise<KeptHead | undefined> {
    let text: string;
    try {
      text = await readFile(this.#path, "utf8");
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code === "ENOENT") return undefined;
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

  async save(head: KeptHead): Promise<void> {
    const state = { signed_note: head.signedNote, verifier_keys: head.verifierKeys };
    await replaceFile(this.#path, `${JSON.stringify(state, undefined, 2)}\n`);
  }

  async saveRejected(signedNote: string): Promise<void> {
    await replaceFile(`${this.#path}.rejected`, signedNote);
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

  async save(head: KeptHead): Promise<void> {
    this.#head = head;
  }

  async saveRejected(signedNote: string): Promise<void> {
    this.rejected = signedNote;
  }
}

/** Replaces a file as a whole or leaves it; what it holds then is on the disk. */
export async function replaceFile(path: string, content: string | AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const file = await open(temporary, "wx", 0o644);
  try {
    try {
      if (typeof content === "string") await file.writeFile(content);
      else for await (const piece of content) await file.writeFile(piece);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (e) {
    await unlink(temporary).catch(() => undefined);
    throw e;
  }
  const directory = await open(dirname(path), "r");
  try {
    await directory.sync();
  } catch {
    // Some systems cannot: there the new name may be lost in a crash, and the old file is whole.
  } finally {
    await directory.close();
  }
}
