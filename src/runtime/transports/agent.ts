/** The agent of a machine (py/coldframe/serve/agent.py): started, awaited, and what it leaves cleared away. */

import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PROJECT } from '../../base/paths.ts';
import { findByVariable, shareThreads, signal } from '../../base/process/processes.ts';
import { type Report, reportSchema } from '../nodes/messages.ts';

const MARK = 'COLDFRAME_RANKS'; // in the environment of all processes that an agent starts
const GONE_SECONDS = 10; // a process that the kernel kills needs a moment to go

/** Of several machines: which this one is, where the first one keeps the store, and the interface that leads there. */
export interface Among {
  nodes: number;
  node: number;
  address: string;
  port: number;
  networkInterface: string | undefined;
}

export interface AgentOptions {
  id: string;
  /** What its processes are known by, and no other machine's. */
  mark: string;
  python: string;
  logFile: string;
  module: string;
  devices: number;
  /** null: this machine is the only one. */
  among: Among | null;
  /** For the first rank: how it finds Node. */
  env: Record<string, string>;
}

export function startAgent({ id, mark, python, logFile, module, devices, among, env }: AgentOptions): ChildProcess {
  const { networkInterface, ...place } = among ?? {};
  // By itself gloo takes the interface of this machine's name, which may be loopback's.
  const network = networkInterface === undefined ? {} : { GLOO_SOCKET_IFNAME: networkInterface };
  return spawn(join(PROJECT, 'py', 'python.sh'), ['-P', '-m', 'coldframe.serve.agent'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    env: {
      ...network,
      ...process.env,
      ...shareThreads(devices),
      ...env,
      COLDFRAME_PYTHON: python,
      COLDFRAME_LOG: logFile,
      COLDFRAME_MODULE: module,
      COLDFRAME_LAUNCH: JSON.stringify({ id, parent: process.pid, devices, ...place }),
      [MARK]: mark,
    },
  });
}

export interface AgentEnd {
  /** undefined: the agent came to no end of its own. */
  report: Report | undefined;
  code: number | null;
  signal: string | null;
}

/** Returns how it ended, once nothing of it is left. */
export async function awaitAgent(agent: ChildProcess, mark: string): Promise<AgentEnd> {
  const report = readAll(agent.stdio[3] as NodeJS.ReadableStream | null);
  const [code, name] = await new Promise<[number | null, string | null]>((settle) => {
    agent.once('error', () => settle([null, null]));
    agent.once('exit', (...how) => settle(how));
  });
  await sweep(mark);
  return { report: parseReport(await report), code, signal: name };
}

/** Waits until no process of a launch is left: they go with the agent, and what does not is killed. */
async function sweep(mark: string): Promise<void> {
  const find = () => findByVariable(MARK).filter(({ value }) => value === mark);
  for (let tries = 0; tries < GONE_SECONDS * 20; tries++) {
    const left = find();
    if (left.length === 0) return;
    if (tries === 20) for (const { pid } of left) signal(pid, 'SIGKILL');
    await sleep(50);
  }
}

async function readAll(stream: NodeJS.ReadableStream | null): Promise<string> {
  const chunks: string[] = [];
  if (stream !== null) for await (const chunk of stream) chunks.push(String(chunk));
  return chunks.join('');
}

function parseReport(text: string): Report | undefined {
  return text === '' ? undefined : reportSchema.parse(JSON.parse(text));
}
