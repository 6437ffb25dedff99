import { createHash } from "node:crypto";

// The Merkle tree of RFC 6962, section 2.1, over the hashes of the log's records. A record's hash is its leaf hash already,
// SHA-256( 0x00 ‖ record ); node = SHA-256( 0x01 ‖ left ‖ right ); the root of the empty tree is SHA-256( "" ).

/** The bytes of every hash. */
export const HASH_BYTES = 32;

/** SHA-256 over pieces, one after the other. */
export function sha256(...pieces: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return new Uint8Array(hash.digest());
}

/** Whether two byte strings are equal. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Bytes in lower-case hex. */
export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Whether all bytes are zero: how an absent digest is written. */
export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** The root of the tree without leaves. */
export const EMPTY_ROOT: Uint8Array = sha256();

const NODE = Uint8Array.of(0x01);

function node(left: Uint8Array, right: Uint8Array): Uint8Array {
  return sha256(NODE, left, right);
}

/** The root over the hashes of records, oldest first. */
export function merkleRoot(leaves: readonly Uint8Array[]): Uint8Array {
  if (leaves.length === 0) return EMPTY_ROOT;
  // The roots of the complete subtrees, the largest first: of each size that is a set bit of the number of leaves.
  const peaks: Uint8Array[] = [];
  leaves.forEach((leaf, index) => {
    let hash = leaf;
    for (let rest = index; rest % 2 === 1; rest = (rest - 1) / 2) hash = node(peaks.pop() as Uint8Array, hash);
    peaks.push(hash);
  });
  return peaks.reduceRight((root, peak) => node(peak, root));
}

/** Whether a path proves that the leaf at an index is in the tree of this size and root (RFC 6962, 2.1.1). */
export function verifyInclusion(
  index: bigint,
  size: bigint,
  leaf: Uint8Array,
  path: readonly Uint8Array[],
  root: Uint8Array,
): boolean {
  if (index < 0n || index >= size || !areHashes([leaf, root, ...path])) return false;
  // Up to where the way from the leaf meets the way from the last leaf both kinds of siblings occur; above, only left ones.
  const inner = bitLength(index ^ (size - 1n));
  const border = popCount(index >> BigInt(inner));
  if (path.length !== inner + border) return false;
  const hash = path.reduce(
    (below, sibling, level) =>
      level >= inner || (index >> BigInt(level)) & 1n ? node(sibling, below) : node(below, sibling),
    leaf,
  );
  return equalBytes(hash, root);
}

/**
 * Whether a path proves that the tree of the first size is the beginning of that of the second (RFC 6962, 2.1.2). From the empty
 * tree nothing can be proven: whoever has seen nothing has nothing to compare.
 */
export function verifyConsistency(
  first: bigint,
  second: bigint,
  firstRoot: Uint8Array,
  secondRoot: Uint8Array,
  path: readonly Uint8Array[],
): boolean {
  if (first <= 0n || first > second) return false;
  if (first === second) return path.length === 0 && equalBytes(firstRoot, secondRoot);
  if (!areHashes([firstRoot, secondRoot, ...path])) return false;
  // The largest subtree that ends at the first size is complete in both trees: the proof begins with its hash, or with the
  // first root itself where that subtree is the whole first tree.
  const shift = trailingZeros(first);
  const index = (first - 1n) >> BigInt(shift);
  const inner = bitLength(index ^ ((second - 1n) >> BigInt(shift)));
  const border = popCount(index >> BigInt(inner));
  const isWhole = first === 1n << BigInt(shift);
  const siblings = isWhole ? path : path.slice(1);
  if (siblings.length !== inner + border || (!isWhole && path.length === 0)) return false;
  const start = isWhole ? firstRoot : (path[0] as Uint8Array);
  let [before, after] = [start, start];
  siblings.forEach((sibling, level) => {
    if (level < inner && !((index >> BigInt(level)) & 1n)) {
      after = node(after, sibling);
    } else {
      before = node(sibling, before);
      after = node(sibling, after);
    }
  });
  return equalBytes(before, firstRoot) && equalBytes(after, secondRoot);
}

function areHashes(hashes: readonly Uint8Array[]): boolean {
  return hashes.every((hash) => hash.length === HASH_BYTES);
}

function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

function popCount(value: bigint): number {
  return value.toString(2).replaceAll("0", "").length;
}

function trailingZeros(value: bigint): number {
  const bits = value.toString(2);
  return bits.length - 1 - bits.lastIndexOf("1");
}
