/** `doctor`: what this machine has for coldframe, and the remedy for what it lacks. */

import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { showPath, UserError } from '../base/errors.ts';
import { formatBytes } from '../base/format.ts';
import { PROJECT } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import type { meetSchema } from '../runtime/replies.ts';
import { withSession } from '../runtime/with-session.ts';

interface Finding {
  name: string;
  ok: boolean;
  found: string;
  /** What to do, where it is not well. */
  repair?: string;
}

const GIB = 1024 ** 3;

const environmentSchema = z.object({
  python: z.string(),
  packages: z.record(z.string(), z.string()),
  num_cpus: z.number(),
  num_threads: z.number(),
  cpu: z.string(),
  cpu_has_bf16: z.boolean(),
  memory_bytes: z.number(),
  free_disk_bytes: z.number(),
  has_semaphores: z.boolean(),
  shared_memory_bytes: z.number().nullable(),
  cuda: z.string().nullable(),
  gpu_driver: z.boolean(),
  devices: z.array(z.object({ name: z.string(), memory_bytes: z.number(), capability: z.string() })),
  visible_devices: z.string().nullable(),
  numa: z.array(z.object({ cores: z.string(), gpus: z.array(z.number()) })),
  decoder: z.object({
    ffmpeg: z.string(),
    missing: z.array(z.string()),
    error: z.string().nullable(),
    torchcodec_problem: z.string().nullable(),
  }),
});

type Environment = z.infer<typeof environmentSchema>;
type Meeting = z.infer<typeof meetSchema>['meetings'][number];

/** Prints the findings; throws UserError with the repairs when something is missing. */
export async function examine(report: Report): Promise<void> {
  const findings = [examineNode(), examineFolder(), ...(await examinePython())];
  for (const { name, ok, found, repair } of findings) {
    if (report.json) report.event({ kind: 'examined', name, ok, found, repair: repair ?? null });
    else report.print(`${ok ? 'ok  ' : 'FAIL'}  ${name.padEnd(14)} ${found}`);
  }
  const faults = findings.filter(({ ok }) => !ok);
  if (faults.length > 0) throw new UserError(faults.map(({ name, repair }) => `${name}  ${repair}`));
}

function examineNode(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return {
    name: 'Node',
    ok: major > 20 || (major === 20 && minor >= 20),
    found: process.version,
    repair: 'Node 20.20 or newer is needed: https://nodejs.org',
  };
}

function examineFolder(): Finding {
  try {
    accessSync(process.cwd(), constants.W_OK);
    return { name: 'Folder', ok: true, found: `${process.cwd()} can be written` };
  } catch {
    const repair = 'Run folders are written below the current folder: go to one that you may write, or give --run-dir.';
    return { name: 'Folder', ok: false, found: `${process.cwd()} cannot be written`, repair };
  }
}

async function examinePython(): Promise<Finding[]> {
  const repair = `Run \`make setup\` in ${PROJECT}.`;
  try {
    return await withSession({ stallSeconds: 300 }, async (session) => {
      const { environment } = await session.describe(null);
      const { meetings } = await session.meet();
      return [...describeEnvironment(environmentSchema.parse(environment)), ...meetings.map(describeMeeting)];
    });
  } catch (error) {
    const { message, lines = [] } = error as Error & { lines?: string[] };
    const found = [message, ...lines.slice(-3)].join(`\n${' '.repeat(21)}`);
    return [{ name: 'Python', ok: false, found, repair }];
  }
}

/** Processes that train together sum up their gradients: one such sum. */
function describeMeeting({ backend, num_processes, seconds, problem }: Meeting): Finding {
  const [what, advice] =
    backend === 'nccl'
      ? ['GPUs', '`NCCL_DEBUG=INFO coldframe doctor` says more']
      : ['processes', 'They meet on the loopback interface, 127.0.0.1: see that it is up'];
  return {
    name: 'All-reduce',
    ok: problem === null,
    found: problem ?? `${num_processes} ${what} over ${backend}, in ${seconds.toFixed(1)} s`,
    repair: `${advice}. \`launch.devices: 1\`, the default, needs none of it.`,
  };
}

/** Where a machine has memory in several places, what is far costs time. */
function describeNuma(numa: Environment['numa']): Finding[] {
  if (numa.length < 2) return [];
  const parts = numa.map(({ cores, gpus }) => `cores ${cores}${gpus.length > 0 ? ` with GPU ${gpus.join(', ')}` : ''}`);
  return [
    { name: 'NUMA', ok: true, found: `${numa.length} nodes, to which processes are not bound: ${parts.join('; ')}` },
  ];
}

function describeEnvironment(env: Environment): Finding[] {
  const versions = Object.entries(env.packages).map(([name, version]) => `${name} ${version}`);
  const gpus = env.devices.map(({ name, memory_bytes }) => `${name} (${formatBytes(memory_bytes)})`);
  const visible = env.visible_devices === null ? '' : ` (CUDA_VISIBLE_DEVICES=${env.visible_devices})`;
  const shm = env.shared_memory_bytes;
  const missing = env.decoder.missing;
  return [
    { name: 'Python', ok: true, found: `${env.python}; ${versions.join(', ')}` },
    {
      name: 'GPU',
      ok: env.devices.length > 0 || !env.gpu_driver,
      found:
        gpus.length > 0
          ? `${gpus.join(', ')}${visible}`
          : env.gpu_driver
            ? `there is one, and PyTorch does not see it${visible}`
            : 'none: the CPU is used',
      repair: `PyTorch is built ${env.cuda === null ? 'without CUDA' : `for CUDA ${env.cuda}`}: make setup TORCH=... with the build for your driver.`,
    },
    {
      name: 'CPU',
      ok: true,
      found: `${env.num_cpus} cores, ${env.num_threads} threads, ${env.cpu}${env.cpu_has_bf16 ? ' with bfloat16' : ''}, ${formatBytes(env.memory_bytes)} memory`,
    },
    ...describeNuma(env.numa),
    {
      name: 'Video decoder',
      ok: env.decoder.error === null && missing.length === 0,
      found:
        env.decoder.error ??
        `FFmpeg ${env.decoder.ffmpeg}${missing.length > 0 ? `, without ${missing.join(', ')}` : ''}; torchcodec: ${env.decoder.torchcodec_problem ?? 'here too'}`,
      repair:
        'PyAV brings its own FFmpeg: reinstall it with `.venv/bin/pip install --force-reinstall -r requirements.txt`.',
    },
    {
      name: 'Disk',
      ok: env.free_disk_bytes > GIB,
      found: `${formatBytes(env.free_disk_bytes)} free`,
      repair: 'Checkpoints and curves need room: free at least 1 GiB, or go to another disk.',
    },
    {
      name: 'Shared memory',
      ok: env.has_semaphores && (env.devices.length < 2 || shm === null || shm > GIB / 4),
      found: shm === null ? 'no /dev/shm' : `${formatBytes(shm)} free in /dev/shm`,
      repair: env.has_semaphores
        ? 'NCCL, which joins GPUs, passes tensors through it: start the container with --shm-size=1g.'
        : 'Semaphores of loader workers lie there: start the container with --shm-size=64m, or set data.num_workers: 0.',
    },
    {
      name: 'Demo clips',
      ok: true,
      found: existsSync(join(PROJECT, 'data', 'demo', 'train.txt'))
        ? `in ${showPath(join(PROJECT, 'data', 'demo'))}`
        : `not made yet: \`make demo\` in ${PROJECT}`,
    },
  ];
}
