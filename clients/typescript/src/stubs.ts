/**
 * The generated stubs: the contract's messages, enums and service definitions as they are. `AegisClient` calls them; messages with many
 * fields are made with `fromPartial`.
 *
 * @module
 */
export * from "./gen/aegis/v1/error_reason.js";
export * from "./gen/aegis/v1/integrity_service.js";
export * from "./gen/aegis/v1/recovery_service.js";
export * from "./gen/aegis/v1/system_service.js";
export * from "./gen/aegis/v1/workflow.js";
export * from "./gen/aegis/v1/workflow_service.js";
export { Duration } from "./gen/google/protobuf/duration.js";
export { Timestamp } from "./gen/google/protobuf/timestamp.js";
