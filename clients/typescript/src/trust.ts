import {
  ChainBroken,
  CursorAheadOfLog,
  HeadRejected,
  type HeadRejectedReason,
  IntegrityError,
  LogForked,
  SnapshotCorrupt,
} from "./errors.js";
import type { Receipt, Record } from "./gen/aegis/v1/workflow.js";
import { type HeadStore, MemoryHeadStore } from "./head-store.js";
import { EMPTY_ROOT, equalBytes, verifyConsistency, verifyInclusion } from "./merkle.js";
import { claimedHead, isSignedInItsName, type LogHead, splitLogId, VerifierKey, verifyHead } from "./signed-note.js";

/** What is trusted, and where what was seen is kept. */
export interface LogTrustOptions {
  /** The verifier keys of the log (`name+keyid+base64`), got from its operator and not from the server. At least one. */
  readonly keys: string | readonly string[];
  /** Where the last head is kept; in memory by default. */
  readonly headStore?: HeadStore;
  /**
   * The log_ids that may follow the kept one: later generations of it (`<log_id>/2`), which begin when an operator accepts that records
   * are lost, or another log, of which a key is trusted too. Until it is named here the client stops.
   */
  readonly acceptedLogIds?: readonly string[];
}

/** Asks the server to prove that one size of the log is the beginning of another. */
export type ConsistencySource = (firstSize: bigint, secondSize: bigint) => Promise<readonly Uint8Array[]>;

/** What a head comes with. */
interface Arrival {
  readonly note: string;
  /** What the caller knew the log's size to be before it asked: the head can be no smaller. */
  readonly knownSize: bigint;
  /** The path from that size that came with the head; undefined where none was asked for. */
  readonly path?: readonly Uint8Array[];
  readonly source: ConsistencySource;
}

/**
 * The keys that are trusted and the last head of the log that was seen. Each newer head has to be signed and to be proven to
 * continue the one before; one that is not stops whoever uses this for good: every later call fails with a {@link HeadRejected} of
 * the same reason. Several engines may share one.
 */
export class LogTrust {
  readonly #keys: readonly VerifierKey[];
  readonly #store: HeadStore;
  readonly #acceptedLogIds: Set<string>;
  #kept: { head: LogHead; note: string } | undefined;
  #savedNote: string | undefined;
  #isLoaded = false;
  #stopped: HeadRejected | undefined;
  #acceptances = 0;
  // Heads are linked one after the other: the next begins when this is done.
  #queue: Promise<unknown> = Promise.resolve();
  #saving: Promise<void> | undefined;

  /** @throws TypeError: a key is malformed, or there is none. */
  constructor(options: LogTrustOptions) {
    this.#keys = [options.keys].flat().map((key) => VerifierKey.parse(key));
    if (this.#keys.length === 0) throw new TypeError("Trust needs the verifier key of the log: give at least one.");
    this.#store = options.headStore ?? new MemoryHeadStore();
    this.#acceptedLogIds = new Set(options.acceptedLogIds);
  }

  /** The last head that was kept; undefined before the first. */
  get keptHead(): LogHead | undefined {
    return this.#kept?.head;
  }

  /** That head as a signed note. */
  get keptNote(): string | undefined {
    return this.#kept?.note;
  }

  /** Why nothing is trusted any more; undefined while all is well. */
  get stopped(): HeadRejected | undefined {
    return this.#stopped;
  }

  /**
   * Goes on with another log_id: to be called when whoever runs the log has told why it changed. A later generation of the kept log
   * has the same key; of another log the key has to be among the trusted ones. A log that was rolled back or forked stays refused.
   *
   * @param logId - The new log_id, as the {@link HeadRejected} with `LOG_ID_CHANGED` names it.
   */
  acceptLogId(logId: string): void {
    this.#acceptedLogIds.add(logId);
    this.#acceptances++;
    if (this.#stopped?.reason === "LOG_ID_CHANGED") this.#stopped = undefined;
  }

  /** @internal How often a log_id was accepted: after each the log is looked at as before the first call. */
  get acceptances(): number {
    return this.#acceptances;
  }

  /** The keys under the name that the log has now. */
  get currentKeys(): readonly VerifierKey[] {
    return this.#kept ? this.#keysOf(this.#kept.head.logId) : this.#keys;
  }

  /**
   * The size of the kept head, to be sent as `known_log_size`; 0 for none.
   *
   * @throws HeadRejected: a head was rejected before. Error: what the store holds cannot be used.
   */
  async knownSize(): Promise<bigint> {
    this.#throwIfStopped();
    if (!this.#isLoaded) await this.#exclusively(() => this.#load());
    return this.#kept?.head.size ?? 0n;
  }

  /**
   * Takes a head as the newest, once it is proven to continue the kept one, and keeps it durably.
   *
   * @throws HeadRejected: it does not. The kept one stays, the other is kept beside it, and this is stopped.
   */
  async advance(arrival: Arrival): Promise<LogHead> {
    const head = await this.#exclusively(async () => {
      if (!this.#isLoaded) await this.#load();
      return this.#link(arrival);
    });
    await this.#save(arrival.source);
    return head;
  }

  /**
   * Verifies what a write returned: that the record is in the log at its place, under a signed head that continues the kept one.
   *
   * @param record - The record, whose hash was recomputed.
   * @throws IntegrityError: it is not.
   */
  async verifyReceipt(
    record: Record,
    receipt: Receipt | undefined,
    knownSize: bigint,
    source: ConsistencySource,
  ): Promise<void> {
    this.#throwIfStopped();
    if (receipt === undefined) throw new IntegrityError("receipt", "The server gave no receipt for the write.");
    if (!equalBytes(receipt.recordHash, record.hash))
      throw new IntegrityError("record_hash", "The receipt is of another record than the one that came with it.");
    if (receipt.logIndex !== record.logIndex)
      throw new IntegrityError("log_index", "The receipt and the record name different places in the log.");
    const head = await this.#signedHead(receipt.logHead);
    if (!verifyInclusion(receipt.logIndex, head.size, record.hash, receipt.inclusionPath, head.root)) {
      throw new IntegrityError(
        "inclusion_path",
        `The path of the receipt does not prove that the record is at ${receipt.logIndex} of the log of ${head.size} records.`,
      );
    }
    await this.advance({ note: receipt.logHead, knownSize, path: receipt.consistencyPath, source });
  }

  async #load(): Promise<void> {
    const stored = await this.#store.load();
    if (stored !== undefined) {
      const claimed = claimedHead(stored.signedNote);
      // Kept only once its generation was accepted.
      const head = claimed && verifyHead(stored.signedNote, this.#keysOf(claimed.logId));
      if (head === undefined)
        throw new Error(
          "The head that was kept is not signed by a trusted key: was the right key given, and the right file?",
        );
      this.#kept = { head, note: stored.signedNote };
      this.#savedNote = stored.signedNote;
    }
    this.#isLoaded = true;
  }

  /** The head of a note, if it is of the log that is trusted and signed by a key that is. */
  async #signedHead(note: string): Promise<LogHead> {
    const kept = this.#kept;
    const claimed = claimedHead(note);
    if (claimed === undefined)
      throw this.#rejection("SIGNATURE_INVALID", "What the server gives is not a signed head.", note);
    const isKnown = kept ? kept.head.logId === claimed.logId : this.#keys.some((key) => key.name === claimed.logId);
    if (!isKnown && !this.#isAccepted(claimed.logId)) {
      // A log signs in its own name: where it does not, the text was altered and tells nothing of another log.
      if (!isSignedInItsName(note))
        throw this.#rejection("SIGNATURE_INVALID", `The head of "${claimed.logId}" is not signed by that log.`, note);
      throw await this.#stop(
        "LOG_ID_CHANGED",
        kept
          ? `The log is now "${claimed.logId}" and was "${kept.head.logId}". A new generation begins only when an operator accepts ` +
              "that records are lost; another name is another log. Go on only when told why, with acceptLogId."
          : `The log is "${claimed.logId}", and no trusted key is of that name.`,
        note,
      );
    }
    const head = verifyHead(note, this.#keysOf(claimed.logId));
    if (head === undefined)
      throw this.#rejection("SIGNATURE_INVALID", "The head is not signed by a trusted key.", note);
    return head;
  }

  async #link({ note, knownSize, path, source }: Arrival): Promise<LogHead> {
    this.#throwIfStopped();
    const head = await this.#signedHead(note);
    const kept = this.#kept;
    if (kept === undefined) {
      this.#kept = { head, note };
      return head;
    }
    if (head.logId !== kept.head.logId) {
      // Accepted, and with it what is lost.
      this.#kept = { head, note };
      return head;
    }
    if (head.size < knownSize) {
      const message = `The log has ${head.size} records and had ${knownSize}: what was acknowledged was taken back.`;
      throw await this.#stop("LOG_ROLLED_BACK", message, note);
    }
    // Another head may have been kept since the call began, smaller or larger than this one.
    const [older, newer] = head.size < kept.head.size ? [head, kept.head] : [kept.head, head];
    const proof = knownSize === older.size && older === kept.head ? path : undefined;
    if (!(await this.#continues(older, newer, proof ?? (() => this.#askedProof(older, newer, note, source))))) {
      const message = `The log of ${newer.size} records does not continue the one of ${older.size}: history was rewritten.`;
      throw await this.#stop("LOG_FORKED", message, note);
    }
    if (head.size > kept.head.size) this.#kept = { head, note };
    return head;
  }

  async #continues(
    older: LogHead,
    newer: LogHead,
    path: readonly Uint8Array[] | (() => Promise<readonly Uint8Array[]>),
  ): Promise<boolean> {
    // From the empty log everything follows.
    if (older.size === 0n) return equalBytes(older.root, EMPTY_ROOT);
    if (older.size === newer.size) return equalBytes(older.root, newer.root);
    const proof = typeof path === "function" ? await path() : path;
    return verifyConsistency(older.size, newer.size, older.root, newer.root, proof);
  }

  /** The path between two heads as the server gives it. That it can give none is as much of an alarm as a wrong one. */
  async #askedProof(
    older: LogHead,
    newer: LogHead,
    note: string,
    source: ConsistencySource,
  ): Promise<readonly Uint8Array[]> {
    try {
      return await source(older.size, newer.size);
    } catch (e) {
      if (e instanceof CursorAheadOfLog) {
        const message = `The log no longer has the ${newer.size} records it had: what was acknowledged was taken back.`;
        throw await this.#stop("LOG_ROLLED_BACK", message, note);
      }
      if (e instanceof ChainBroken || e instanceof SnapshotCorrupt || e instanceof LogForked) {
        const message = `The server cannot prove that its log continues the kept head: ${e.message}`;
        throw await this.#stop("LOG_FORKED", message, note);
      }
      throw e;
    }
  }

  /** Keeps the newest head. One write of the store serves all heads that were linked before it began. */
  async #save(source: ConsistencySource): Promise<void> {
    // The one that runs may have begun before this head was linked; the next one has it.
    if (this.#saving) await this.#saving.catch(() => undefined);
    this.#saving ??= this.#exclusively(() => this.#saveKept(source)).finally(() => {
      this.#saving = undefined;
    });
    await this.#saving;
  }

  async #saveKept(source: ConsistencySource): Promise<void> {
    for (let isSaved = false; !isSaved; ) {
      this.#throwIfStopped();
      const stored = await this.#store.load();
      // Another process that shares the store may have seen more: its head and ours have to be of one history.
      if (stored !== undefined && stored.signedNote !== this.#savedNote)
        await this.#link({ note: stored.signedNote, knownSize: 0n, source });
      this.#savedNote = stored?.signedNote;
      const kept = this.#kept;
      if (kept === undefined || kept.note === stored?.signedNote) return;
      const verifierKeys = this.#keysOf(kept.head.logId).map((key) => key.toString());
      // Not where another process was faster: what that one has kept is linked first.
      isSaved = await this.#store.save({ signedNote: kept.note, verifierKeys }, stored);
      if (isSaved) this.#savedNote = kept.note;
    }
  }

  /**
   * Whether a log_id was accepted: a later generation of the kept log, or another log. Never an earlier generation, whose records were
   * given up. Whoever signs has to be trusted all the same.
   */
  #isAccepted(logId: string): boolean {
    const { base, generation } = splitLogId(logId);
    const before = this.#kept ? [this.#kept.head.logId] : this.#keys.map((key) => key.name);
    return (
      this.#acceptedLogIds.has(logId) &&
      before.map(splitLogId).every((earlier) => earlier.base !== base || earlier.generation < generation)
    );
  }

  /** The keys of a log, under whatever generation's name they were given. */
  #keysOf(logId: string): VerifierKey[] {
    const { base } = splitLogId(logId);
    return this.#keys.filter((key) => splitLogId(key.name).base === base).map((key) => key.named(logId));
  }

  /** Each call has an error of its own, which tells what became of that call. */
  #throwIfStopped(): void {
    if (this.#stopped === undefined) return;
    const { reason, message, keptNote, newNote } = this.#stopped;
    throw new HeadRejected(reason, message, keptNote, newNote);
  }

  /** Signed, and no continuation: evidence. Nothing is trusted from here on. */
  async #stop(reason: HeadRejectedReason, message: string, note: string): Promise<HeadRejected> {
    this.#stopped ??= this.#rejection(reason, message, note);
    await this.#store.saveRejected(note);
    return this.#stopped;
  }

  #rejection(reason: HeadRejectedReason, message: string, note: string): HeadRejected {
    return new HeadRejected(reason, message, this.#kept?.note, note);
  }

  async #exclusively<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(act);
    this.#queue = turn.catch(() => undefined);
    return turn;
  }
}
