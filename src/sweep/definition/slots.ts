/** Whether slots can be had as a sweep file asks for them: how many devices and machines a cohort takes. */

import { findDevices } from '../../base/process/devices.ts';
import { plural } from '../../base/words.ts';
import type { Config } from '../../config/schema.ts';
import type { SweepDraft } from './schema.ts';

type Fail = (key: string, text: string) => void;

export function checkSlots(
  { executor }: Pick<SweepDraft, 'executor'>,
  { launch }: Pick<Config, 'launch'>,
  fail: Fail,
): void {
  if (launch.rendezvous !== null)
    fail('set.launch.rendezvous', 'cohorts cannot share one address. Remove it: executors find one for each.');
  if (executor.kind === 'local') checkLocal(executor.slots, launch, fail);
  else if (executor.kind === 'slurm') checkSlurm(executor.slurm, launch, fail);
  else checkRay(executor.ray, launch, fail);
}

/** Slots may share a GPU where each uses one; the processes of one cohort may not. */
function checkLocal(slots: number, { device, devices, nodes }: Config['launch'], fail: Fail): void {
  if (nodes > 1)
    fail('executor.kind', `local is this machine alone, and launch.nodes is ${nodes}. Allowed with it: slurm, ray.`);
  const found = device === 'cpu' ? 0 : findDevices().length;
  if (devices === 1 || found === 0 || slots * devices <= found) return;
  const fits = [
    ...(devices <= found ? [`executor.slots up to ${Math.floor(found / devices)}`] : []),
    ...(slots <= found ? [`launch.devices up to ${Math.floor(found / slots)}`] : []),
  ].join(', or ');
  const needed = `${plural(slots, 'slot')} of ${plural(devices, 'device')} (launch.devices) need ${slots * devices}`;
  fail('executor.slots', `${needed}, and this machine shows ${found}. What fits: ${fits}.`);
}

const WIDTH = /^(-[Nn]|--nodes|--ntasks|--ntasks-per-node)(=|$|\d)/;

function checkSlurm({ gres, extra }: SweepDraft['executor']['slurm'], launch: Config['launch'], fail: Fail): void {
  const { device, devices, nodes } = launch;
  const [, given] = /^gpu(?::[^:=]+)?[:=](\d+)/.exec(gres ?? '') ?? [];
  if (device !== 'cpu' && given !== undefined && Number(given) < devices)
    fail(
      'executor.slurm.gres',
      `${gres} is less than launch.devices, ${devices}. Give gpu:${devices}, or fewer devices.`,
    );
  const width = extra.find((option) => WIDTH.test(option));
  if (width !== undefined && nodes > 1)
    fail('executor.slurm.extra', `${width}: machines follow from launch.nodes, ${nodes}, a task on each. Remove it.`);
}

function checkRay({ num_gpus: given }: SweepDraft['executor']['ray'], launch: Config['launch'], fail: Fail): void {
  const { device, devices, nodes } = launch;
  const isShort = given === null ? device === 'cuda' && devices * nodes > 1 : given < devices && given >= 1;
  if (device === 'cpu' || !isShort) return;
  const found = given === null ? 'not set' : `${given} is less`;
  fail(
    'executor.ray.num_gpus',
    `${found}, and launch.devices is ${devices}. Give ${devices}${devices > 1 ? ', or fewer devices' : ''}.`,
  );
}
