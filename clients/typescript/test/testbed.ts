import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import { credentials, InterceptingCall, type Interceptor } from "@grpc/grpc-js";
import {
  AegisClient,
  type AegisClientOptions,
  DurableWorkflowEngine,
  type EngineOptions,
  type WorkflowRecord,
} from "aegis-client";

// Servers and proxies as they were built, each in a process and a directory of its own. What a test starts ends with it.

const READY_MS = 60_000;

const ends = new WeakMap<TestContext, (() => unknown)[]>();

/** Ends something with the test, what was begun last first: clients before the servers that they release leases at. */
export function atEnd(t: TestContext, end: () => unknown): void {
  const of = ends.get(t) ?? [];
  if (of.length === 0) {
    ends.set(t, of);
    t.after(async () => {
      for (const each of of.reverse()) await each();
    });
  }
  of.push(end);
}

/** A directory that is gone after the test. */
export async function temporaryDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "aegis-test-"));
  atEnd(t, () => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("No port was given.");
  return address.port;
}

/** A server over SQLite in a directory of its own. */
export class Server {
  readonly port: number;
  readonly directory: string;
  readonly #certificate: { certificate: string; key: string } | undefined;
  readonly #settings: Readonly<Record<string, string>>;
  #process: ChildProcess | undefined;
  #output = "";

  private constructor(
    port: number,
    directory: string,
    certificate: { certificate: string; key: string } | undefined,
    settings: Readonly<Record<string, string>>,
  ) {
    this.port = port;
    this.directory = directory;
    this.#certificate = certificate;
    this.#settings = settings;
  }

  /** Starts one that ends with the test; with TLS where it is given the files of a certificate and its key. */
  static async start(
    t: TestContext,
    certificate?: { certificate: string; key: string },
    settings: Readonly<Record<string, string>> = {},
  ): Promise<Server> {
    const directory = await temporaryDirectory(t);
    const server = new Server(await freePort(), directory, certificate, settings);
    atEnd(t, () => server.kill());
    await server.launch();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Starts it, again after its end, and waits until it answers. */
  async launch(): Promise<void> {
    const environment = Object.entries(process.env).filter(([name]) => !/^(AEGIS|ASPNETCORE|OTEL)_/.test(name));
    const tls = this.#certificate;
    const url = `${tls ? "https" : "http"}://${this.address}`;
    const child = spawn("dotnet", [variable("AEGIS_SERVER"), "--urls", url], {
      cwd: this.directory,
      env: {
        ...Object.fromEntries(environment),
        AEGIS_DATA_DIR: this.directory,
        AEGIS_DRAIN_SECONDS: "0",
        ...this.#settings,
        ...(tls && {
          Kestrel__Certificates__Default__Path: tls.certificate,
          Kestrel__Certificates__Default__KeyPath: tls.key,
        }),
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (text) => {
        this.#output = (this.#output + text).slice(-10_000);
      });
    }
    const client = new AegisClient({
      addresses: this.address,
      timeoutMs: READY_MS,
      ...(tls && { credentials: credentials.createSsl(await readFile(tls.certificate)) }),
    });
    try {
      const ended = once(child, "exit").then(() => {
        throw new Error(`The server ended: ${this.#output}`);
      });
      await Promise.race([client.system.getServerInfo({}), ended]);
    } finally {
      client.close();
    }
  }

  /** SIGKILL, by its process id. Done when it is gone. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
  }

  /** The verifier keys of its log. */
  async keys(): Promise<string[]> {
    const client = new AegisClient(this.address);
    try {
      return (await client.system.getServerInfo({})).verifierKeys;
    } finally {
      client.close();
    }
  }
}

/** A proxy that loses, holds and forges replies. */
export class FaultProxy {
  readonly address: string;
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(address: string, process: ChildProcess, lines: AsyncIterator<string>) {
    this.address = address;
    this.#process = process;
    this.#lines = lines;
  }

  /** Starts one that ends with the test. */
  static async start(t: TestContext, target: string): Promise<FaultProxy> {
    const child = spawn("dotnet", [variable("AEGIS_FAULT_PROXY"), `http://${target}`], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    atEnd(t, async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
    });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const { value } = await lines.next();
    const [, address] = /^listening on http:\/\/(.+)$/.exec(value ?? "") ?? [];
    if (address === undefined) throw new Error(`The proxy says: ${value}`);
    return new FaultProxy(address, child, lines);
  }

  cutReply(method: string): Promise<void> {
    return this.#command(`cut-reply ${method}`);
  }

  hold(method: string): Promise<void> {
    return this.#command(`hold ${method}`);
  }

  flip(method: string, field: string, at?: number): Promise<void> {
    return this.#command(`flip ${method} ${field}${at === undefined ? "" : ` ${at}`}`);
  }

  forget(): Promise<void> {
    return this.#command("forget");
  }

  async #command(line: string): Promise<void> {
    this.#process.stdin?.write(`${line}\n`);
    const { value } = await this.#lines.next();
    if (value !== "ok") throw new Error(`${line}: ${value}`);
  }
}

/** Runs the command `aegis` against a server, and gives what it printed; fails when it does. */
export async function command(address: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)("dotnet", [
    variable("AEGIS_CLI"),
    "--server",
    `http://${address}`,
    ...args,
  ]);
  return stdout;
}

/** A client that is closed after the test. */
export function connect(t: TestContext, options: AegisClientOptions | string): AegisClient {
  const client = new AegisClient(options);
  atEnd(t, () => client.close());
  return client;
}

/** An engine with a client of its own, both closed after the test. */
export function engineOf(t: TestContext, address: string, options: EngineOptions = {}): DurableWorkflowEngine {
  const client = new AegisClient(address);
  const engine = new DurableWorkflowEngine(client, options);
  atEnd(t, async () => {
    // The server may be gone: then there is nothing to release.
    await engine.close({ timeoutMs: 1_000 });
    client.close();
  });
  return engine;
}

/** All records of a workflow, oldest first. */
export async function historyOf(engine: DurableWorkflowEngine, workflowId: string): Promise<WorkflowRecord[]> {
  const records: WorkflowRecord[] = [];
  for await (const record of engine.records(workflowId)) records.push(record);
  return records;
}

/** Counts the attempts of a method. */
export function countingOf(method: string): { readonly interceptor: Interceptor; readonly sent: number } {
  let sent = 0;
  return {
    interceptor: (options, next) => {
      if (options.method_definition.path.endsWith(`/${method}`)) sent++;
      return new InterceptingCall(next(options));
    },
    get sent() {
      return sent;
    },
  };
}

/** Waits until something is so. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`Not so after ${timeoutMs} ms: ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function variable(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run ./check, or source clients/testbed first.`);
  return value;
}
