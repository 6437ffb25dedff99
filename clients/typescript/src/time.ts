import type { Timestamp } from "./gen/google/protobuf/timestamp.js";

/** A point in time: a `Date`, which knows milliseconds, or whole microseconds since 1970 as the log has them. */
export type Time = Date | bigint;

/** A time in whole microseconds since 1970. */
export function toMicroseconds(time: Time | Timestamp): bigint {
  if (typeof time === "bigint") return time;
  if (!(time instanceof Date)) return time.seconds * 1_000_000n + BigInt(Math.trunc(time.nanos / 1000));
  const milliseconds = time.getTime();
  if (Number.isNaN(milliseconds)) throw new TypeError("The time is an invalid Date.");
  return BigInt(milliseconds) * 1000n;
}

/** A time as a `Date`, cut to milliseconds. */
export function toDate(time: Time | Timestamp): Date {
  return time instanceof Date ? time : new Date(Number(toMicroseconds(time) / 1000n));
}

export function toTimestamp(time: Time): Timestamp {
  const microseconds = toMicroseconds(time);
  let seconds = microseconds / 1_000_000n;
  if (seconds * 1_000_000n > microseconds) seconds -= 1n;
  return { seconds, nanos: Number(microseconds - seconds * 1_000_000n) * 1000 };
}
