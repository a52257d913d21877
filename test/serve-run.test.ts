/** `serve` as a user runs it, with the real model: answers, a Python that dies, the end. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { CLIPS, coldframe, Gate, makeClips, Running, until, writeConfig } from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'serve-run-test-')));
const [temporary, videos] = [join(folder, 'tmp'), join(folder, 'videos')];
const run = join(folder, 'run');
const gate = new Gate(join(folder, 'gate'), 'gated.mp4');
let server: Running;
let address: string;

interface Body {
  kind?: string;
  path?: string;
  code?: string;
  error?: string;
  classes?: { label: number; name: string; probability: number }[];
  timeline?: { seconds?: number; windows?: { end: number }[] };
  attention?: { frames?: { weight: number }[]; strip?: string };
}
const read = async (response: Response): Promise<{ status: number; body: Body }> => ({
  status: response.status,
  body: (await response.json()) as Body,
});
const name = async (path: string, more: object = {}) => {
  const headers = { 'content-type': 'application/json' };
  return read(await fetch(`${address}/predict`, { method: 'POST', headers, body: JSON.stringify({ path, ...more }) }));
};
const upload = async (file: string, fields: Record<string, string> = {}) => {
  const form = new FormData();
  for (const [key, value] of Object.entries(fields)) form.append(key, value);
  form.append('video', new Blob([readFileSync(join(videos, file))]), file);
  return read(await fetch(`${address}/predict`, { method: 'POST', body: form }));
};
const health = async (): Promise<object> => (await fetch(`${address}/healthz`)).json() as Promise<object>;

/** What lies in the server's own folder. */
const listLeft = (): string[] =>
  readdirSync(temporary)
    .filter((entry) => entry.startsWith('coldframe') && statSync(join(temporary, entry)).isDirectory())
    .flatMap((entry) => readdirSync(join(temporary, entry)));

/** Three pictures of one pixel, eleven minutes each. */
const LONG_GIF = Buffer.concat([
  Buffer.from('GIF89a'),
  Buffer.from([1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]),
  ...[0, 1, 2].map(() =>
    Buffer.from([0x21, 0xf9, 4, 0, 0xff, 0xff, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0]),
  ),
  Buffer.from([0x3b]),
]);

beforeAll(async () => {
  await makeClips();
  for (const made of [temporary, videos]) mkdirSync(made);
  const clips = readFileSync(join(CLIPS, 'val.txt'), 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '');
  for (const [index, file] of ['a.mp4', 'b.mp4', 'c.mp4', 'gated.mp4', 'deadly.mp4', 'live.mp4'].entries())
    copyFileSync(join(CLIPS, clips[index] ?? ''), join(videos, file));
  writeFileSync(join(videos, 'long.gif'), LONG_GIF);
  writeFileSync(join(videos, 'torn.mp4'), readFileSync(join(videos, 'a.mp4')).subarray(0, 5000));
  const trained = await coldframe([
    'train',
    '--config',
    writeConfig(folder),
    '--run-dir',
    run,
    '--set',
    'train.steps=2',
  ]);
  expect([trained.code, trained.stderr]).toEqual([0, '']);
  const env = { ...gate.env, GATE_DEADLY: 'deadly.mp4', GATE_LIVE: 'live.mp4', TMPDIR: temporary };
  const args = ['serve', run, '--port', '0', '--root', videos, '--json', '--max-duration', '60', '--timeout', '200'];
  server = new Running(args, { env });
  ({ address } = (await server.event('serving')) as unknown as { address: string });
});
afterAll(() => {
  if (server?.members().length) server.signalGroup('SIGKILL');
  rmSync(folder, { recursive: true });
});

test('answers as `predict --json` does, of a video that is sent or named', async () => {
  const args = ['predict', '--checkpoint', run, '--json', '--top', '3', 'a.mp4'];
  const [printed, named, sent] = await Promise.all([
    coldframe(args, { cwd: videos }).then(({ stdout }) => JSON.parse(stdout)),
    name('a.mp4', { top: 3 }),
    upload('a.mp4', { top: '3' }),
  ]);
  expect(printed).toMatchObject({ kind: 'predicted', path: 'a.mp4' });
  for (const { status, body } of [named, sent]) {
    expect(status).toBe(200);
    expect({ ...body, time: '' }).toEqual({ ...printed, time: '' });
  }
  expect(server.events.filter(({ kind }) => kind === 'answered')).toMatchObject([
    { route: '/predict', status: 200, path: 'a.mp4', error: null },
    { route: '/predict', status: 200, path: 'a.mp4', error: null },
  ]);
});

test('tells what is seen when and where the decoder looks, where that is asked for', async () => {
  const [named, sent, wrong] = await Promise.all([
    name('b.mp4', { also: 'timeline,attention' }),
    upload('b.mp4', { also: 'attention' }),
    name('b.mp4', { also: 'attention,time' }),
  ]);
  expect([named.status, sent.status, wrong.status]).toEqual([200, 200, 400]);
  expect(wrong.body.error).toMatch(/also: found time; allowed are timeline and attention/);
  const { timeline, attention, classes } = named.body;
  expect(timeline).toMatchObject({ is_whole: true, segments: expect.any(Array) });
  expect(timeline?.windows?.length).toBeGreaterThan(1);
  expect(timeline?.windows?.at(-1)?.end).toBeCloseTo(timeline?.seconds ?? 0);
  expect(classes).toHaveLength(5);
  expect(attention?.frames?.reduce((sum, { weight }) => sum + weight, 0)).toBeCloseTo(1);
  expect(attention?.strip).toMatch(/^data:image\/png;base64,iVBOR/);
  expect(sent.body).toEqual({ ...sent.body, attention }); // the same under another name
  expect(Object.keys(sent.body)).not.toContain('timeline');
  expect(listLeft()).toEqual(['python.log']);
});

test('says of each video why it is not looked at; of a long one a part is', async () => {
  const all = await Promise.all([
    upload('torn.mp4'),
    name('long.gif'),
    upload('long.gif'),
    name('b.mp4#t=0,0.5', { top: 1 }),
  ]);
  expect(all.map(({ status, body }) => [status, body.code, body.path])).toEqual([
    [422, 'bad_video', 'torn.mp4'],
    [413, 'too_long', 'long.gif'],
    [413, 'too_long', 'long.gif'],
    [200, undefined, 'b.mp4#t=0,0.5'],
  ]);
  expect(all[0]?.body).toMatchObject({ kind: 'predicted', error: expect.stringMatching(/moov atom/) });
  expect(all[1]?.body.error).toMatch(/^lasts 00:32:46, and 00:01:00 are allowed/);
  expect(all[3]?.body.classes).toHaveLength(1);
});

test('a Python that is killed is started again, and no request is lost', async () => {
  const gated = name('gated.mp4');
  await gate.reached();
  const others = [name('a.mp4'), upload('b.mp4'), upload('c.mp4')];
  server.killPython('main');
  gate.open();
  expect((await Promise.all([gated, ...others])).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  expect(await health()).toMatchObject({ status: 'ok', restarts: 1, in_hand: 0, waiting: 0 });
  expect(await server.event('restarted')).toMatchObject({
    why: expect.stringMatching(/^Python was killed by SIGKILL/),
  });
});

test('a video that kills it each time is refused, and those beside it are answered', async () => {
  const all = await Promise.all([name('a.mp4'), upload('deadly.mp4'), name('deadly.mp4'), upload('b.mp4')]);
  expect(all.map(({ status, body }) => [status, body.code])).toEqual([
    [200, undefined],
    [200, undefined], // under a name of the server's own it kills nobody
    [500, 'failed'],
    [200, undefined],
  ]);
  expect(all[2]?.body.error).toMatch(/^Python ended each time/);
});

test('lets others by while it goes through a long video', async () => {
  let isThere = false;
  const live = name('live.mp4', { also: 'timeline' }).finally(() => {
    isThere = true;
  });
  await until(() => existsSync(join(folder, 'gate.live')), 120);
  const others = [await name('a.mp4'), await name('b.mp4', { also: 'attention' })];
  // Python ends of others twice: that is none of this one's fault.
  others.push(await name('deadly.mp4'), await name('deadly.mp4'));
  expect(others.map(({ status }) => status)).toEqual([200, 200, 500, 500]);
  expect(isThere).toBe(false);
  writeFileSync(join(folder, 'gate.on'), '');
  expect((await live).body.timeline).toMatchObject({ is_whole: true });
});

test('at its end it answers what it has, takes nothing new, and leaves nothing behind', async () => {
  for (const end of ['ready', 'go']) rmSync(join(folder, `gate.${end}`)); // the gate is closed again
  const gated = name('gated.mp4');
  await gate.reached();
  process.kill(server.pid, 'SIGTERM');
  const isOpen = (): Promise<boolean> =>
    fetch(`${address}/healthz`).then(
      ({ status }) => status === 200,
      () => false,
    );
  while (await isOpen()); // until it has heard
  gate.open();
  expect((await gated).status).toBe(200);
  expect(await server.ended).toMatchObject({ code: 0, signal: null });
  expect(server.members()).toEqual([]);
  expect(readdirSync(temporary).filter((entry) => entry.startsWith('coldframe'))).toEqual([]);
});
