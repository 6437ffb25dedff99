/**
 * Durable state of workflows, with a history that nobody can rewrite unnoticed. Begin with {@link AegisClient} and
 * {@link DurableWorkflowEngine}.
 *
 * @module
 */
export { ChainVerifier, type Finding, type FindingClass, type FoundSnapshot } from "./chain.js";
export { AegisClient, type AegisClientOptions, type CallOptions, type Calls, type Method } from "./client.js";
export { bytes, type Codec, json } from "./codec.js";
export { DurableWorkflowEngine } from "./engine.js";
export * from "./errors.js";
export { type ExportedWorkflow, type ExportReport, verifyExport } from "./export.js";
export { ImportOutcome, type ImportWorkflowsResponse } from "./gen/aegis/v1/recovery_service.js";
export { type Lease, type Record as WorkflowRecord, RecordKind, WorkflowStatus } from "./gen/aegis/v1/workflow.js";
export { FileHeadStore, type HeadStore, type KeptHead, MemoryHeadStore } from "./head-store.js";
export { merkleRoot, verifyConsistency, verifyInclusion } from "./merkle.js";
export type {
  CheckpointAt,
  EngineOptions,
  ExportFilter,
  ImportOptions,
  ResumeOptions,
  ResumePendingOptions,
  StartOptions,
  TransitionOptions,
  WriteOptions,
} from "./options.js";
export { PendingWorkflows } from "./pending.js";
export type { IntegrityReport, LoadedCheckpoint } from "./reading.js";
export {
  checkRecord,
  encodeContent,
  encodePerson,
  encodeRecord,
  encodeSnapshot,
  hashRecord,
  type Part,
  type RecordProblem,
} from "./record-format.js";
export {
  type LogHead,
  VerifierKey,
  verifyHead,
  verifyStatement,
  type WorkflowStatement,
} from "./signed-note.js";
export { type Time, toDate, toMicroseconds } from "./time.js";
export { type ConsistencySource, LogTrust, type LogTrustOptions } from "./trust.js";
export { Workflow, type WorkflowType, type WriteResult } from "./workflow.js";
