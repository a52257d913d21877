/** Fetching against a real server that cuts, stalls, corrupts and changes; inspecting real files through the program. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { Report } from '../src/base/printer.ts';
import { loadConfig } from '../src/config/load.ts';
import { download, type Source } from '../src/weights/download.ts';
import { type FetchRequest, fetchWeights } from '../src/weights/weights.ts';
import { coldframe, FIXTURES, Running, until } from './support.ts';

const makeBytes = (seed: string, length: number): Buffer =>
  Buffer.concat(
    Array.from({ length: Math.ceil(length / 32) }, (_, i) => createHash('sha256').update(`${seed} ${i}`).digest()),
  ).subarray(0, length);
const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

const FILE = makeBytes('right', 300_007);
const OTHER = makeBytes('other', 300_007);
const SHA256 = hash(FILE);
const HALF = 150_000;

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

let folder: string;
let target: string;
let server: Server;
let url: string;
let requests: IncomingMessage[];
/** The answer to the first request, the second, ...; the last one answers all the others too. */
let answers: Answer[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'weights-test-'));
  target = join(folder, 'file.pt');
  requests = [];
  answers = [];
  server = createServer((request, response) => {
    requests.push(request);
    answers[Math.min(requests.length, answers.length) - 1]?.(request, response);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/models/file.pt`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

interface Habits {
  bytes?: Buffer;
  etag?: string | null;
  /** Does without ranges, or sends them whatever If-Range says. */
  ranges?: 'proper' | 'none' | 'careless';
  /** Bytes after which the connection breaks, or falls silent. */
  cutAfter?: number;
  stallAfter?: number;
  /** Without a length. */
  chunked?: boolean;
}

/** What a web server does with a file. */
function send({ bytes = FILE, etag = '"1"', ranges = 'proper', cutAfter, stallAfter, chunked }: Habits = {}): Answer {
  return (request, response) => {
    const [, first] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
    const condition = request.headers['if-range'];
    const isPart =
      first !== undefined && ranges !== 'none' && (ranges === 'careless' || !condition || condition === etag);
    const start = isPart ? Number(first) : 0;
    if (isPart && start >= bytes.length) return void response.writeHead(416).end();
    const body = bytes.subarray(start);
    response.writeHead(isPart ? 206 : 200, {
      ...(chunked ? {} : { 'content-length': body.length }),
      ...(etag === null ? {} : { etag }),
      ...(isPart ? { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` } : {}),
    });
    if (cutAfter !== undefined && cutAfter < body.length) breakOff(response, body.subarray(0, cutAfter), start);
    else if (stallAfter !== undefined) response.write(body.subarray(0, stallAfter));
    else response.end(body);
  };
}

/** Breaks the connection when the client has taken the part: what is on the way then would be lost. */
async function breakOff(response: ServerResponse, part: Buffer, start: number): Promise<void> {
  response.write(part);
  const partial = `${target}.partial`;
  await until(() => existsSync(partial) && statSync(partial).size >= start + part.length, 60);
  response.destroy();
}

const refuse =
  (status: number): Answer =>
  (_, response) =>
    void response.writeHead(status).end('no');

/** Downloads `FILE`'s hash from the server; returns what the user was told. */
async function fetchFile(changes: Partial<Source> = {}): Promise<string[]> {
  const notes: string[] = [];
  const limits = { stallSeconds: 5, retrySeconds: 0.001, signal: new AbortController().signal };
  const listener = { note: (text: string) => void notes.push(text), received: () => {} };
  await download({ url, sha256: SHA256, ...limits, ...changes }, target, listener);
  expect(readFileSync(target).equals(FILE)).toBe(true);
  expect(readdirSync(folder)).toEqual(['file.pt']);
  return notes;
}

const ranges = (): (string | undefined)[] => requests.map(({ headers }) => headers.range);
const leave = (bytes: Buffer): void => writeFileSync(`${target}.partial`, bytes);

describe('a download', () => {
  test('comes whole, and nothing else is left', async () => {
    answers = [send()];
    expect(await fetchFile()).toEqual([]);
    expect(ranges()).toEqual([undefined]);
  });

  test('comes whole without a length, ranges and tags', async () => {
    answers = [send({ chunked: true, etag: null, ranges: 'none' })];
    expect(await fetchFile()).toEqual([]);
  });

  test('goes on where the connection broke, as long as bytes come', async () => {
    answers = [send({ cutAfter: 40_000 })]; // breaks more often than it is retried in a row
    const notes = await fetchFile();
    expect(notes).toHaveLength(7);
    expect(notes[0]).toMatch(/the connection failed: .*Trying again/);
    expect(ranges()).toEqual([undefined, ...[1, 2, 3, 4, 5, 6, 7].map((i) => `bytes=${i * 40_000}-`)]);
    expect(requests[1]?.headers['if-range']).toBe('"1"');
  });

  test('goes on after a silence', async () => {
    answers = [send({ stallAfter: HALF }), send()];
    expect((await fetchFile({ stallSeconds: 0.3 }))[0]).toContain('no byte came for 0.3 s');
    expect(ranges()[1]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  test('goes on after a server that never answered', async () => {
    answers = [() => {}, send()];
    expect((await fetchFile({ stallSeconds: 0.3 }))[0]).toContain('no byte came for 0.3 s');
  });

  test('comes again after errors of the server', async () => {
    answers = [refuse(500), refuse(503), refuse(429), send()];
    expect((await fetchFile()).map((note) => /answered (\d+)/.exec(note)?.[1])).toEqual(['500', '503', '429']);
  });

  test('follows a redirect, with its range', async () => {
    const redirect: Answer = (_, response) => void response.writeHead(302, { location: '/elsewhere' }).end();
    answers = [redirect, send({ cutAfter: HALF }), redirect, send()];
    await fetchFile();
    expect(requests.map((request) => request.url)).toEqual([
      ...['/models/file.pt', '/elsewhere', '/models/file.pt', '/elsewhere'],
    ]);
    expect(ranges()[3]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  test('begins anew where the server knows no ranges', async () => {
    answers = [send({ ranges: 'none', cutAfter: HALF }), send({ ranges: 'none' })];
    await fetchFile();
    expect(ranges()).toEqual([undefined, `bytes=${HALF}-`]);
    expect(readFileSync(target).equals(FILE)).toBe(true);
  });

  test.each([
    ['its server respects If-Range', '"1"', 'proper', [/connection failed/]],
    ['its server tells by the tag alone', '"1"', 'careless', [/connection failed/, /of another file/]],
    ['nothing tells before the hash', null, 'careless', [/connection failed/, /do not belong together/]],
  ] as const)('begins anew when the file has changed and %s', async (_, etag, habit, told) => {
    const old = { bytes: OTHER, etag, cutAfter: HALF };
    answers = [send(old), send({ etag: etag && '"2"', ranges: habit })];
    expect(await fetchFile()).toEqual(told.map((words) => expect.stringMatching(words)));
  });

  test.each([
    ['goes on with what an earlier process left', FILE.subarray(0, HALF), [`bytes=${HALF}-`]],
    ['needs no server for a whole leftover', FILE, []],
    ['begins anew after a wrong leftover', OTHER.subarray(0, HALF), [`bytes=${HALF}-`, undefined]],
    ['begins anew after a leftover that is too long', Buffer.concat([OTHER, FILE]), ['bytes=600014-', undefined]],
  ])('%s', async (_, leftover, expected) => {
    leave(leftover);
    answers = [send({ etag: null })];
    await fetchFile();
    expect(ranges()).toEqual(expected);
  });

  test('that is another file is refused with both hashes, and removed', async () => {
    answers = [send({ bytes: OTHER })];
    const error = await fetchFile().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(UserError);
    expect(String(error)).toContain(SHA256);
    expect(String(error)).toContain(hash(OTHER));
    expect(readdirSync(folder)).toEqual([]);
    expect(requests).toHaveLength(1);
  });

  test('that is another file is refused after one more pass when its parts were put together', async () => {
    answers = [send({ bytes: OTHER, cutAfter: HALF }), send({ bytes: OTHER })];
    await expect(fetchFile()).rejects.toThrow(hash(OTHER));
    expect(requests).toHaveLength(3);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('that is a web page is called so', async () => {
    answers = [(_, response) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>log in')];
    await expect(fetchFile()).rejects.toThrow(/It is a web page/);
  });

  test('is given up when no attempt brings a byte, and keeps those that came', async () => {
    leave(FILE.subarray(0, HALF));
    answers = [refuse(500)];
    await expect(fetchFile()).rejects.toThrow(/answered 500 .*\(6 times\)\. 150000 bytes are kept/);
    expect(requests).toHaveLength(6);
    expect(statSync(`${target}.partial`).size).toBe(HALF);
  });

  test('that is refused is not tried again', async () => {
    answers = [refuse(404)];
    await expect(fetchFile()).rejects.toThrow(/answered 404 Not Found/);
    expect(requests).toHaveLength(1);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('tells why nothing listens', async () => {
    server.close();
    await expect(fetchFile()).rejects.toThrow(/ECONNREFUSED/);
  });

  test('stops when it is told to, and keeps what came', async () => {
    const stop = new AbortController();
    answers = [send({ stallAfter: HALF })];
    const ended = expect(fetchFile({ signal: stop.signal })).rejects.toMatchObject({ name: 'AbortError' });
    await until(() => existsSync(`${target}.partial`) && statSync(`${target}.partial`).size > 0, 60);
    stop.abort();
    await ended;
    expect(statSync(`${target}.partial`).size).toBeGreaterThan(0);
  });
});

describe('weights fetch', () => {
  const args = (...more: string[]): string[] => ['weights', 'fetch', '--url', url, '--to', folder, ...more];
  const given = (...more: string[]): string[] => args('--sha256', SHA256, ...more);

  test('prints the configuration on stdout; a second time it asks nobody', async () => {
    answers = [send()];
    const first = await coldframe(given());
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toBe(`model:\n  backbone:\n    weights: ${target}\n    weights_sha256: ${SHA256}\n`);
    const second = await coldframe(given('--json'));
    expect(JSON.parse(second.stdout)).toMatchObject({ kind: 'fetched', path: target, sha256: SHA256, is_new: false });
    expect(requests).toHaveLength(1);
    expect(readdirSync(folder)).toEqual(['file.pt']);
  });

  const NOTHING: FetchRequest = { name: undefined, url: undefined, sha256: undefined, folder: 'w', stallSeconds: 5 };
  const refusal = (request: Partial<FetchRequest>): Promise<string> =>
    fetchWeights({ ...NOTHING, ...request }, new Report()).then(
      () => 'nothing',
      (error: unknown) => (error instanceof UserError ? error.message : `a bug: ${error}`),
    );

  test('leaves another file in its place alone, and names both hashes', async () => {
    writeFileSync(target, OTHER);
    const message = await refusal({ url, sha256: SHA256, folder });
    expect(message).toContain(`${SHA256} is expected. Move it away`);
    expect(message).toContain(hash(OTHER));
    expect(readFileSync(target).equals(OTHER)).toBe(true);
    expect(requests).toHaveLength(0);
  });

  test('checks a mirror of a known name against the published hash', async () => {
    answers = [send()];
    const published = '5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f';
    expect(await refusal({ name: 'ViT-B/16', url, folder })).toContain(`${published} is expected`);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('says which folder cannot be written', async () => {
    writeFileSync(target, 'a file');
    expect(await refusal({ url, sha256: SHA256, folder: join(target, 'below') })).toMatch(/file\.pt.*ENOTDIR/);
  });

  test('started twice at once downloads once', async () => {
    answers = [(request, response) => void setTimeout(() => send()(request, response), 2500)];
    const both = await Promise.all([coldframe(given()), coldframe(given())]);
    expect(both.map(({ code }) => code)).toEqual([0, 0]);
    expect(both.map(({ stderr }) => stderr).join('')).toContain('fetched by another process: waiting');
    expect(requests).toHaveLength(1);
    expect(readdirSync(folder)).toEqual(['file.pt']);
  });

  test.each([
    ['SIGKILL', null, ['file.pt.lock', 'file.pt.partial']],
    ['SIGINT', 130, ['file.pt.partial']],
    ['SIGHUP', 130, ['file.pt.partial']],
  ] as const)('goes on after %s in the middle', async (signal, code, left) => {
    answers = [send({ stallAfter: HALF }), send()];
    const running = new Running(given());
    await until(() => existsSync(`${target}.partial`) && statSync(`${target}.partial`).size === HALF, 60);
    running.signalGroup(signal);
    expect((await running.ended).code).toBe(code);
    expect(readdirSync(folder)).toEqual(left);
    expect(await coldframe(given())).toMatchObject({ code: 0 });
    expect(ranges()).toEqual([undefined, `bytes=${HALF}-`]);
    expect(readdirSync(folder)).toEqual(['file.pt']);
  });

  test.each<[string, Partial<FetchRequest>, RegExp]>([
    ['no name', {}, /needs a name \(ViT-B\/32, ViT-B\/16/],
    ['an unknown name', { name: 'RN50' }, /^RN50 {2}is no name/],
    ['a hash for a known name', { name: 'ViT-B/16', sha256: SHA256 }, /--url alone/],
    ['an address without a hash', { url: 'https://a.example/b.pt' }, /--sha256 {2}is needed/],
    ['a hash that is none', { url: 'https://a.example/b.pt', sha256: '12' }, /64 hex digits/],
    ['an address without a file', { url: 'https://a.example/', sha256: SHA256 }, /names no file/],
    ['another protocol', { url: 'ftp://a.example/b.pt', sha256: SHA256 }, /https:\/\//],
    ['a password', { url: 'https://me:secret@a.example/b.pt', sha256: SHA256 }, /^--url {2}holds a user name/],
  ])('refuses %s', async (_, request, message) => {
    expect(await refusal(request)).toMatch(message);
  });
});

describe('weights inspect', () => {
  const PARITY = join(FIXTURES, 'parity');

  test('tells the sizes of an archive as OpenAI publishes them, and a configuration that holds', async () => {
    const file = join(PARITY, 'clip_jit_archive.pt');
    const ended = await coldframe(['weights', 'inspect', file, '--json']);
    expect(ended).toMatchObject({ code: 0 });
    const event = JSON.parse(ended.stdout);
    expect(event).toMatchObject({
      kind: 'inspected',
      dtypes: ['float16'],
      sha256: hash(readFileSync(file)),
      backbone: { width: 64, num_layers: 3, num_heads: 1, patch_size: [16, 16], grid: [2, 2], mlp_factor: 4 },
      evl: null,
      published: null,
    });
    const config = join(folder, 'found.yaml');
    const few = { decoder: { num_layers: 2 } };
    writeFileSync(config, JSON.stringify({ ...event.config, model: { ...event.config.model, ...few } }));
    const { backbone } = loadConfig(config).config.model;
    expect(backbone).toMatchObject({ preset: 'custom', num_layers: 3, patch_size: 16, input_size: 32, weights: file });
  });

  test('tells the sizes of a checkpoint of the original, and how to begin from it', async () => {
    const file = join(PARITY, 'ckpt_random_init', 'checkpoint-5.pth');
    const ended = await coldframe(['weights', 'inspect', file]);
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    expect(ended.stdout).toContain('EVL checkpoint without its backbone, float32');
    expect(ended.stdout).toContain('2 decoder layers, attention width 48, backbone width 48, 5 classes, 4 frames');
    expect(ended.stdout).toContain(`run:\n  init_from: ${file}`);
  });
});
