/** How the machines of one training find each other and what they tell each other; a fake agent stands for the ranks. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Interrupted, RuntimeFailure, UserError } from '../src/base/errors.ts';
import { findByVariable } from '../src/base/process/processes.ts';
import { type EndedElsewhere, Meeting } from '../src/runtime/nodes/meeting.ts';
import { joinMeeting } from '../src/runtime/nodes/member.ts';
import { findPlace, type Place } from '../src/runtime/nodes/place.ts';
import { until } from './support.ts';

jest.setTimeout(60_000);
const folder = mkdtempSync(join(tmpdir(), 'nodes-test-'));
const file = join(folder, '.run.nodes.json');
const python = process.env.COLDFRAME_PYTHON;
afterAll(() => {
  if (python === undefined) delete process.env.COLDFRAME_PYTHON;
  else process.env.COLDFRAME_PYTHON = python;
  rmSync(folder, { recursive: true });
});
beforeEach(() => rmSync(file, { force: true }));

const SLURM = { SLURM_JOB_ID: '7', SLURM_STEP_ID: '0', SLURM_NODEID: '1', SLURM_STEP_NUM_NODES: '2' };

describe('where a machine stands', () => {
  test('is known of a step of Slurm, whose restarts are others', async () => {
    const env = { ...SLURM, SLURM_STEP_NUM_TASKS: '2', SLURM_RESTART_COUNT: '3' };
    expect(await findPlace({ nodes: 2, rendezvous: null }, env)).toEqual({ by: 'scheduler', id: '7.0.3', node: 1 });
  });

  test('is told to those of a job of Ray', async () => {
    const env = { ...SLURM, COLDFRAME_MACHINE: 's-1:c0001-2:1' }; // a Ray of its own may run inside a job of Slurm
    expect(await findPlace({ nodes: 2, rendezvous: null }, env)).toEqual({
      ...{ by: 'scheduler', id: 's-1:c0001-2', node: 1 },
    });
  });

  test('follows by hand from who has the address', async () => {
    const here = await findPlace({ nodes: 2, rendezvous: 'localhost:29500' }, SLURM);
    expect(here).toMatchObject({ by: 'address', host: 'localhost', port: 29500, isHere: true });
    expect(await findPlace({ nodes: 2, rendezvous: '192.0.2.99:1' }, {})).toMatchObject({ isHere: false });
  });

  test.each<[string, number, string | null, NodeJS.ProcessEnv, RegExp]>([
    ['nobody says', 2, null, {}, /found 2, and nothing says where .* Give launch.rendezvous, HOST:PORT/],
    [
      'srun is missing',
      2,
      null,
      { SLURM_JOB_ID: '7' },
      /this is no step of srun\. Start it once on each node: srun --nodes=2/,
    ],
    ['there are too few', 3, null, { ...SLURM, SLURM_STEP_NUM_TASKS: '2' }, /has 2 tasks on 2 nodes/],
    ['there are several tasks a node', 2, null, { ...SLURM, SLURM_STEP_NUM_TASKS: '4' }, /has 4 tasks on 2 nodes/],
    ['the name is unknown', 2, 'nowhere.invalid:1', {}, /nowhere.invalid cannot be looked up/],
  ])('is refused where %s', async (_, nodes, rendezvous, env, said) => {
    const found = findPlace({ nodes, rendezvous }, env);
    await expect(found).rejects.toThrow(said);
    await expect(found).rejects.toThrow(UserError);
  });
});

const notes: string[] = [];
const about = { runDir: folder, file, nodes: 2, devices: 1, settings: {}, hangSeconds: 20, waitSeconds: 20 };
const options = { ...about, note: (text: string) => void notes.push(text) };
const first: Place = { by: 'scheduler', id: 'job', node: 0 };
const second: Place = { by: 'scheduler', id: 'job', node: 1 };

/** What a test that fails would leave open, so that jest waits for ever. */
const opened: { meetings: Meeting[]; sockets: Socket[] } = { meetings: [], sockets: [] };
afterEach(async () => {
  for (const socket of opened.sockets.splice(0)) socket.destroy();
  for (const meeting of opened.meetings.splice(0)) await meeting.end('finished', '');
});

async function open(more: object = {}, place: Place = first): Promise<Meeting> {
  const meeting = await Meeting.open(place, { ...options, ...more });
  if (meeting === undefined) throw new Error('the address is taken');
  opened.meetings.push(meeting);
  return meeting;
}

function greet(port: number, hello: object): Socket {
  const socket = connect(port, '127.0.0.1');
  opened.sockets.push(socket);
  socket.write(
    `${JSON.stringify({ kind: 'hello', run_dir: folder, node: 1, nodes: 2, devices: 1, settings: {}, ...hello })}\n`,
  );
  return socket;
}

/** Python that says where it is, and how its ranks ended once it is told to. */
function fakeAgent(report: object): string {
  const program = join(folder, 'python');
  const code = `#!/bin/sh
echo "$COLDFRAME_LAUNCH $COLDFRAME_RANKS $GLOO_SOCKET_IFNAME" >'${folder}/launch'
while [ ! -e '${folder}/go' ]; do sleep 0.02; done
echo '${JSON.stringify(report)}' >&3
`;
  writeFileSync(program, code);
  chmodSync(program, 0o755);
  process.env.COLDFRAME_PYTHON = program;
  for (const name of ['go', 'launch']) rmSync(join(folder, name), { force: true });
  return join(folder, 'launch');
}

/** What is no first machine, or is one no more. */
async function answer(how: (socket: Socket) => void): Promise<Place> {
  const server = createServer(how);
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  server.unref();
  server.on('connection', (socket) => opened.sockets.push(socket));
  const { port } = server.address() as { port: number };
  return { by: 'address', host: 'localhost', address: '127.0.0.1', port, isHere: false };
}

describe('a machine that has come', () => {
  const welcome = '{"kind":"welcome"}\n';
  const gone = /the first machine \(127\.0\.0\.1:\d+\) is gone/;
  const never = /what answers at 127\.0\.0\.1:\d+ is not the first machine/;
  test.each<[string, RegExp, (socket: Socket) => void]>([
    ['closes the connection', never, (socket) => socket.destroy()],
    ['resets it', never, (socket) => socket.once('data', () => socket.resetAndDestroy())],
    ['speaks another language', never, (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['takes all and says nothing', never, (socket) => socket.resume()],
    ['has welcomed it, and is killed', gone, (socket) => socket.write(welcome, () => socket.destroy())],
    ['has welcomed it, and is heard of no more', gone, (socket) => socket.resume().write(welcome)],
  ])('gives up a first one that %s', async (_, said, how) => {
    notes.length = 0;
    const joined = joinMeeting(await answer(how), { ...options, hangSeconds: 1 });
    await expect(joined).rejects.toThrow(said);
    await expect(joined).rejects.toThrow(RuntimeFailure);
    expect(notes).toHaveLength(said === gone ? 1 : 0); // who has the run
  });
});

describe('a meeting', () => {
  test('is found by a file that nobody else reads, and removes it', async () => {
    const meeting = await open();
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const joined = joinMeeting(second, options);
    await meeting.gather();
    await meeting.end('finished', '');
    expect(await joined).toBeUndefined();
    expect(existsSync(file)).toBe(false);
  });

  test.each([
    ['interrupted', Interrupted],
    ['user', UserError],
    ['failed', RuntimeFailure],
  ] as const)('that is over as %s ends the others so', async (how, kind) => {
    const meeting = await open();
    const joined = joinMeeting(second, options);
    const ended = expect(joined).rejects.toThrow(kind);
    await meeting.gather();
    await meeting.end(how, 'because');
    await ended;
    await expect(joined).rejects.toThrow('because');
  });

  test.each([
    ['another run', { runDir: '/elsewhere' }, /the run here is .*, not \/elsewhere/],
    ['another number of machines', { nodes: 3 }, /launch.nodes {2}is 2 here and 3 on /],
    ['other devices', { devices: 4 }, /launch.devices {2}is 1 here and 4 on /],
  ])('sends away who comes for %s', async (_, more, said) => {
    const meeting = await open();
    notes.length = 0;
    const joined = joinMeeting(second, { ...options, ...more });
    await expect(joined).rejects.toThrow(said);
    await expect(joined).rejects.toThrow(UserError);
    expect(notes).toEqual([expect.stringMatching(/^Machine .* was sent away: /)]); // of the first machine, and no other
    expect(notes[0]).toMatch(said);
    await meeting.end('finished', '');
  });

  test('tells all that differs of a machine with other settings, and asks for no same place', async () => {
    const of = (lr: number, list: string, host: string) => ({
      settings: { train: { lr }, data: { train_list: list }, launch: { rendezvous: host, hang_seconds: lr } },
    });
    const meeting = await open(of(1, 'a.txt', 'localhost:1'));
    const joined = joinMeeting(second, { ...options, ...of(2, 'b.txt', '127.0.0.1:1') });
    await expect(joined).rejects.toMatchObject({
      problems: [
        'train.lr  is 2; the first machine, whose values count, has 1.',
        'data.train_list  is "b.txt"; the first machine, whose values count, has "a.txt".',
      ],
    });
    await meeting.end('finished', '');
  });

  test('hears nobody who does not know the token', async () => {
    const meeting = await open({ waitSeconds: 0.5 });
    const { port } = JSON.parse(readFileSync(file, 'utf8')) as { port: number };
    const socket = greet(port, { token: '', host: 'x' });
    await until(() => socket.destroyed, 60);
    await expect(meeting.gather()).rejects.toThrow(/1 of 2 machines are here .* no more have come for 0.5 s/);
    await meeting.end('finished', '');
  });

  test('by an address is of one run: a second process there is no first machine', async () => {
    const server = createServer();
    await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
    const { port } = server.address() as { port: number };
    const place: Place = { by: 'address', host: 'localhost', address: '127.0.0.1', port, isHere: true };
    expect(await Meeting.open(place, options)).toBeUndefined();
    server.close();
  });

  test('starts the agents of the others, and hears how they end', async () => {
    const failures = [{ rank: 1, host: 'other', pid: 1, code: -9 }];
    const launched = fakeAgent({ failures });
    const meeting = await open();
    const joined = joinMeeting(second, options);
    await meeting.gather();
    const ends: EndedElsewhere[] = [];
    const among = await meeting.launch('one', 'module', (ended) => ends.push(ended));
    await until(() => existsSync(launched) && readFileSync(launched, 'utf8').endsWith('\n'), 60);
    const { address, port, networkInterface } = among;
    expect(readFileSync(launched, 'utf8')).toContain(`"node":1,"address":"${address}","port":${port}}`);
    expect(readFileSync(launched, 'utf8').trim()).toMatch(new RegExp(` one\\.1 ${networkInterface}$`));
    writeFileSync(join(folder, 'go'), '');
    await until(() => ends.length > 0, 60);
    expect(ends).toEqual([expect.objectContaining({ report: { failures } })]);
    await meeting.end('finished', '');
    await joined;
  });

  test('ends what others still run of a launch that is over', async () => {
    const launched = fakeAgent({ failures: [] });
    const meeting = await open();
    const joined = joinMeeting(second, options);
    await meeting.gather();
    const ends: EndedElsewhere[] = [];
    await meeting.launch('two', 'module', (ended) => ends.push(ended));
    await until(() => existsSync(launched), 60);
    await meeting.clear('two');
    expect(findByVariable('COLDFRAME_RANKS').filter(({ value }) => value === 'two.1')).toEqual([]);
    expect(ends).toEqual([]); // a consequence, and no cause
    await meeting.end('finished', '');
    await joined;
  });

  test('knows a machine that is gone, and waits for none of a scheduler', async () => {
    fakeAgent({ failures: [] });
    const meeting = await open();
    const { port, token } = JSON.parse(readFileSync(file, 'utf8')) as { port: number; token: string };
    const socket = greet(port, { token, host: 'other' });
    await meeting.gather();
    const ends: EndedElsewhere[] = [];
    await meeting.launch('three', 'module', (ended) => ends.push(ended));
    socket.destroy();
    await until(() => ends.length > 0, 60);
    expect(ends[0]).toMatchObject({
      host: 'other',
      report: null,
      how: expect.stringContaining('closed its connection'),
    });
    await expect(meeting.gather()).rejects.toThrow(/1 of 2 machines are here .*, and one is gone/);
    await meeting.end('finished', '');
  });
});
