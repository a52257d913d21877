/** Which of several machines this one is: as `launch.rendezvous` or Slurm says. */

import { lookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { UserError } from '../../base/errors.ts';
import type { Section } from '../../base/objects.ts';
import { plural } from '../../base/words.ts';

interface Launch {
  nodes: number;
  rendezvous: string | null;
}

/** What is said once of a run, on each of its machines. */
export interface MachineOptions {
  runDir: string;
  /** Where the first machine of a scheduler's tells its address. */
  file: string;
  nodes: number;
  devices: number;
  /** The run's own, or those of a cohort's first trial. */
  settings: Section;
  /** A machine that says nothing for so long is lost. */
  hangSeconds: number;
  /** How long the others are waited for. */
  waitSeconds: number;
  note: (text: string) => void;
}

export type Place =
  /** The machines find each other by a file in the run folder, which is theirs by its `id`. */
  | { by: 'scheduler'; id: string; node: number }
  /** The one that has the address is the first. */
  | { by: 'address'; host: string; address: string; port: number; isHere: boolean };

/** Throws UserError where that cannot be told, or is not what `launch.nodes` says. */
export async function findPlace({ nodes, rendezvous }: Launch, env = process.env): Promise<Place> {
  if (rendezvous !== null) return findAddress(rendezvous);
  const [, id = '', node] = /^(.+):(\d+)$/.exec(env.COLDFRAME_MACHINE ?? '') ?? [];
  if (node !== undefined) return { by: 'scheduler', id, node: Number(node) }; // scripts/ray_machines.py
  if (env.SLURM_JOB_ID === undefined)
    throw new UserError(
      `launch.nodes  found ${nodes}, and nothing says where the other machines are. Give launch.rendezvous, HOST:PORT of ` +
        'the first one, and start the same command on each; or start it by srun: scripts/slurm_train.sbatch.',
    );
  return findSlurm(nodes, env);
}

function findSlurm(nodes: number, env: NodeJS.ProcessEnv): Place {
  const [numNodes, numTasks] = [Number(env.SLURM_STEP_NUM_NODES ?? 0), Number(env.SLURM_STEP_NUM_TASKS ?? 0)];
  if (numNodes !== nodes || numTasks !== nodes) {
    const found = numNodes === 0 ? 'this is no step of srun' : describeStep(numTasks, numNodes);
    throw new UserError(
      `launch.nodes  found ${nodes}, and ${found}. Start it once on each node: ` +
        `srun --nodes=${nodes} --ntasks-per-node=1 coldframe train ...`,
    );
  }
  const { SLURM_JOB_ID: job, SLURM_STEP_ID: step, SLURM_RESTART_COUNT: restart = '0', SLURM_NODEID: node } = env;
  return { by: 'scheduler', id: `${job}.${step}.${restart}`, node: Number(node) };
}

const describeStep = (numTasks: number, numNodes: number): string =>
  `this step of srun has ${plural(numTasks, 'task')} on ${plural(numNodes, 'node')}`;

async function findAddress(rendezvous: string): Promise<Place> {
  const [, host = '', port = ''] = /^\[?(.*?)\]?:(\d+)$/.exec(rendezvous) ?? [];
  try {
    const { address } = await lookup(host);
    return { by: 'address', host, address, port: Number(port), isHere: findInterface(address) !== undefined };
  } catch (error) {
    throw new UserError(
      `launch.rendezvous  ${host} cannot be looked up (${(error as Error).message}). Give a name or an address that every machine knows.`,
    );
  }
}

/** Returns the name of the network interface that has an address. */
export function findInterface(address: string): string | undefined {
  const all = Object.entries(networkInterfaces());
  return all.find(([, addresses]) => addresses?.some((one) => one.address === address))?.[0];
}

/** Returns the addresses that others may reach this machine by; loopback is the last hope. */
export function listAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const outside = all.filter(({ internal, address }) => !internal && !address.startsWith('fe80:'));
  const isOld = ({ family }: { family: string }): boolean => family === 'IPv4';
  return [...outside.filter(isOld), ...outside.filter((one) => !isOld(one))]
    .map(({ address }) => address)
    .concat('127.0.0.1');
}
