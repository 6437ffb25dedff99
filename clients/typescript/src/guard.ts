import { Budget } from "./budget.js";
import type { AegisClient } from "./client.js";
import { CursorAheadOfLog } from "./errors.js";
import type { ExportReport } from "./export.js";
import type { Receipt, Record } from "./gen/aegis/v1/workflow.js";
import type { ConsistencySource, LogTrust } from "./trust.js";

/** Holds what an engine does against its trust: nothing is begun once the log was found not to continue what was seen of it. */
export class LogGuard {
  readonly trust: LogTrust | undefined;
  readonly #client: AegisClient;
  #contacted: Promise<void> | undefined;
  #acceptances = 0;

  constructor(client: AegisClient, trust: LogTrust | undefined) {
    this.#client = client;
    this.trust = trust;
  }

  /**
   * Does what needs the log to continue what was seen of it, with the size that is known of it (0 without trust). Where the server says that
   * the log is shorter, its head is asked for: then it either was taken back, or the server had not caught up, and it is done again.
   */
  async during<R>(budget: Budget, act: (knownSize: bigint) => Promise<R>): Promise<R> {
    const { trust } = this;
    if (trust === undefined) return act(0n);
    if (trust.acceptances !== this.#acceptances) {
      this.#acceptances = trust.acceptances;
      this.#contacted = undefined;
    }
    // The first of all calls looks at the log as it is now, so that reads too are of a log that continues the kept one.
    this.#contacted ??= this.lookAtHead(new Budget({}, this.#client.timeoutMs)).catch((e) => {
      this.#contacted = undefined;
      throw e;
    });
    await budget.within(this.#contacted);
    try {
      return await budget.within(act(await trust.knownSize()));
    } catch (e) {
      if (!(e instanceof CursorAheadOfLog)) throw e;
      await this.lookAtHead(budget);
      return budget.within(act(await trust.knownSize()));
    }
  }

  /** Asks for the head of the log, which has to continue the kept one. */
  async lookAtHead(budget: Budget): Promise<void> {
    if (this.trust === undefined) return;
    const knownSize = await this.trust.knownSize();
    const { signedNote } = await this.#client.integrity.getLogHead({}, budget.call);
    await this.trust.advance({ note: signedNote, knownSize, source: this.#source(budget) });
  }

  /** Verifies what a write returned: see {@link LogTrust.verifyReceipt}. */
  async verifyReceipt(record: Record, receipt: Receipt | undefined, knownSize: bigint, budget: Budget): Promise<void> {
    await this.trust?.verifyReceipt(record, receipt, knownSize, this.#source(budget));
  }

  /** An export's report, once its head is known to continue what was seen. */
  async linked(report: ExportReport, knownSize: bigint, budget: Budget): Promise<ExportReport> {
    if (report.logHead !== undefined)
      await this.trust?.advance({ note: report.signedNote, knownSize, source: this.#source(budget) });
    return report;
  }

  #source(budget: Budget): ConsistencySource {
    return async (firstSize, secondSize) => {
      const { path } = await this.#client.integrity.getConsistencyProof({ firstSize, secondSize }, budget.call);
      return path;
    };
  }
}
