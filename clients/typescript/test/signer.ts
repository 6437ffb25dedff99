import { createHash, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { VerifierKey } from "aegis-client";

const dash = "\u2014";

/** A log's key of its own, to sign what whoever holds it could sign. */
export class Signer {
  readonly key: VerifierKey;
  readonly #private: KeyObject;

  constructor(name: string) {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const bytes = Buffer.concat([
      Uint8Array.of(1),
      Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url"),
    ]);
    const id = createHash("sha256").update(`${name}\n`).update(bytes).digest("hex").slice(0, 8);
    this.key = VerifierKey.parse(`${name}+${id}+${bytes.toString("base64")}`);
    this.#private = privateKey;
  }

  /** The line of a signature over a text, under the name of a generation. */
  line(text: string, name = this.key.name): string {
    const signature = sign(null, Buffer.from(text), this.#private);
    return `${dash} ${name} ${Buffer.concat([this.key.named(name).id, signature]).toString("base64")}\n`;
  }
}
