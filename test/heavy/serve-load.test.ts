/** A server under load: `make test-load`. Good, bad, huge and half-sent videos by eight clients at once. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { Served } from '../server.ts';

jest.setTimeout(600_000);
const [NUM_CLIENTS, NUM_REQUESTS, NUM_BEFORE] = [8, 200, 48];
/** Allocators do not give back all that they had; what is kept of each request would be more than this. */
const MOST_GROWTH_BYTES = 48 * 2 ** 20;
const GOOD = ['a.mp4', 'b.mp4', 'c.mp4', 'd.mp4'];
const served = new Served();
const silent: Socket[] = [];

beforeAll(async () => {
  await served.start(GOOD, ['--max-size', '2MB', '--timeout', '300']);
  writeFileSync(join(served.videos, 'torn.mp4'), readFileSync(join(served.videos, 'a.mp4')).subarray(0, 5000));
  writeFileSync(join(served.videos, 'huge.mp4'), Buffer.alloc(8 * 2 ** 20, 7));
});
afterAll(() => served.end());

interface Body {
  code?: string;
  classes?: { label: number; probability: number }[];
}
interface Answered {
  status: number;
  body: Body;
}
const read = async (response: Response): Promise<Answered> => ({
  status: response.status,
  body: (await response.json()) as Body,
});

async function name(path: string): Promise<Answered> {
  const headers = { 'content-type': 'application/json' };
  return read(
    await fetch(`${served.address}/predict`, { method: 'POST', headers, body: JSON.stringify({ path, top: 8 }) }),
  );
}

async function upload(file: string): Promise<Answered> {
  const form = new FormData();
  form.append('top', '8');
  form.append('video', new Blob([readFileSync(join(served.videos, file))]), file);
  return read(await fetch(`${served.address}/predict`, { method: 'POST', body: form }));
}

/** Sends half a video; then the client is gone, or says nothing more. */
function sendHalf(isSilent: boolean): Promise<void> {
  const { hostname, port } = new URL(served.address);
  const file = readFileSync(join(served.videos, 'a.mp4'));
  const head = [
    ...['POST /predict HTTP/1.1', `Host: ${hostname}:${port}`, `Content-Length: ${file.length + 500}`],
    ...['Content-Type: multipart/form-data; boundary=xxxx', '', '--xxxx'],
    ...['Content-Disposition: form-data; name="video"; filename="half.mp4"', '', ''],
  ].join('\r\n');
  return new Promise((settle) => {
    const socket = connect(Number(port), hostname, () => {
      socket.write(head);
      socket.write(file.subarray(0, file.length / 2), () => {
        if (isSilent) silent.push(socket);
        else socket.destroy();
        settle();
      });
    });
    socket.on('error', settle);
  });
}

/** Resident now, and at most so far: of the server and all that it started. */
function measureMemory(): { now: number; most: number } {
  const sum = (key: string): number =>
    served.server.members().reduce((bytes, pid) => {
      const kilobytes = new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      return bytes + 1024 * Number(kilobytes);
    }, 0);
  return { now: sum('VmRSS'), most: sum('VmHWM') };
}

/** Does the requests of these numbers, eight at a time; returns how good ones were answered, and how others. */
async function load(from: number, to: number): Promise<{ good: [string, Answered][]; others: (string | number)[] }> {
  const good: [string, Answered][] = [];
  const others: (string | number)[] = [];
  let next = from;
  const ask = async (): Promise<void> => {
    while (next < to) {
      const number = next++;
      const file = GOOD[number % GOOD.length] ?? '';
      const kind = number % 10;
      if (kind === 6) others.push((await upload('torn.mp4')).body.code ?? 'none');
      else if (kind === 7) others.push((await upload('huge.mp4')).body.code ?? 'none');
      else if (kind === 8) await sendHalf(number % 20 === 8 && silent.length < 4);
      else good.push([file, await (kind % 2 === 0 ? upload(file) : name(file))]);
    }
  };
  await Promise.all(Array.from({ length: NUM_CLIENTS }, ask));
  return { good, others };
}

test('200 requests of eight clients: no good one is lost, each gets its own answer, and memory stays', async () => {
  const alone = new Map<string, Body>();
  for (const file of GOOD) alone.set(file, (await name(file)).body);
  const first = await load(0, NUM_BEFORE);
  const before = measureMemory();
  const rest = await load(NUM_BEFORE, NUM_REQUESTS);
  const after = measureMemory();

  const good = [...first.good, ...rest.good];
  expect(good).toHaveLength(140);
  expect(good.filter(([, { status }]) => status !== 200)).toEqual([]);
  const byLabel = ({ classes = [] }: Body): number[] =>
    classes.toSorted((a, b) => a.label - b.label).map(({ probability }) => Math.round(1e4 * probability));
  for (const [file, { body }] of good) {
    const [told, wanted] = [byLabel(body), byLabel(alone.get(file) ?? {})];
    expect(told).toHaveLength(8);
    for (const [label, share] of wanted.entries()) expect(Math.abs((told[label] ?? -9) - share)).toBeLessThanOrEqual(1);
  }
  const others = [...first.others, ...rest.others];
  expect(others.filter((code) => code === 'bad_video')).toHaveLength(20);
  expect(others.filter((code) => code === 'too_large')).toHaveLength(20);

  expect(after.now - before.now).toBeLessThan(MOST_GROWTH_BYTES);
  expect(after.most - before.most).toBeLessThan(MOST_GROWTH_BYTES);

  for (const socket of silent) socket.destroy();
  expect(silent.length).toBeGreaterThan(0);
  const health = async () => (await fetch(`${served.address}/healthz`)).json() as Promise<object>;
  while (((await health()) as { in_hand: number }).in_hand > 0);
  expect(await health()).toMatchObject({ status: 'ok', restarts: 0, waiting: 0 });
  process.kill(served.server.pid, 'SIGTERM');
  expect(await served.server.ended).toMatchObject({ code: 0 });
  expect(readdirSync(served.temporary).filter((entry) => entry.startsWith('coldframe'))).toEqual([]);
});
