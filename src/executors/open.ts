/** The executor that `executor` of a sweep file asks for, or that of a job in parts. */

import { join } from 'node:path';
import { findDevices } from '../base/process/devices.ts';
import type { Executor, SweepExecutor } from './executor.ts';
import { Heartbeat } from './heartbeat.ts';
import { LocalExecutor } from './local.ts';
import { RayExecutor } from './ray.ts';
import { SlurmExecutor } from './slurm.ts';

export interface ExecutorPlace {
  /** Whose jobs they are: scripts of arrays go below it. */
  dir: string;
  /** launch.device. */
  device: string;
  /** Counts the requests to stop. */
  stop: { readonly requested: number };
  note: (text: string) => void;
}

export function openExecutor(settings: SweepExecutor, { dir, device, stop, note }: ExecutorPlace): Executor {
  const { kind, slots, poll_seconds: pollSeconds, slurm, ray } = settings;
  if (kind === 'local') return new LocalExecutor({ slots, devices: device === 'cpu' ? [] : findDevices() });
  const remote = { slots, stop, pollSeconds, note };
  if (kind === 'slurm') return new SlurmExecutor({ ...remote, dir: join(dir, 'slurm'), settings: slurm });
  return new RayExecutor({ ...remote, settings: ray });
}

/** Of a process of this machine it is known whether it lives, and it watches its own progress: nobody else does. */
export function openHeartbeat(settings: SweepExecutor, launch: { stall_seconds: number }): Heartbeat | null {
  if (settings.kind === 'local') return null;
  return new Heartbeat(settings.stall_seconds ?? launch.stall_seconds);
}
