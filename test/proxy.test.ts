/** `weights fetch` behind a proxy: a real one of this machine, for an address that nobody else could answer. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { download } from '../src/weights/download.ts';

const FILE = Buffer.from('weights '.repeat(1000));
let folder: string;
let target: string;
let server: Server;
let url: string;
let requests: (string | undefined)[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'proxy-test-'));
  target = join(folder, 'file.pt');
  requests = [];
  server = createServer((request, response) => {
    requests.push(request.url);
    response.end(FILE);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/models/file.pt`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

function fetchFile(address = url): Promise<void> {
  const sha256 = createHash('sha256').update(FILE).digest('hex');
  const limits = { stallSeconds: 5, retrySeconds: 0.001, signal: new AbortController().signal };
  return download({ url: address, sha256, ...limits }, target, { note: () => {}, received: () => {} });
}

describe('a proxy that the environment names', () => {
  const NAMES = ['http_proxy', 'https_proxy', 'no_proxy'].flatMap((name) => [name, name.toUpperCase()]);
  const before = Object.fromEntries(NAMES.map((name) => [name, process.env[name]]));
  const restore = (): void => {
    for (const name of NAMES) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  };
  beforeEach(() => {
    for (const name of NAMES) delete process.env[name];
  });
  afterEach(restore);
  const FAR = 'http://files.invalid/models/file.pt'; // no such host: only a proxy can answer

  test.each(['HTTP_PROXY', 'http_proxy'])('as %s is asked for the whole address', async (name) => {
    process.env[name] = new URL(url).host; // as curl has it, also without http://
    await fetchFile(FAR);
    expect(requests).toEqual([FAR]);
    expect(readFileSync(target)).toEqual(FILE);
  });

  test('is asked for a tunnel to an https server, and what it refuses is told', async () => {
    process.env.HTTPS_PROXY = new URL(url).origin;
    const tunnels: unknown[] = [];
    server.on('connect', (request, socket) => {
      tunnels.push(request.url);
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    });
    await expect(fetchFile(FAR.replace('http:', 'https:'))).rejects.toThrow(/the connection failed: .*403/);
    expect(new Set(tunnels)).toEqual(new Set(['files.invalid:443']));
  });

  test('is passed by for the hosts of NO_PROXY', async () => {
    process.env.HTTP_PROXY = 'http://127.0.0.1:1'; // nobody is there
    process.env.NO_PROXY = '127.0.0.1,localhost';
    await fetchFile();
    expect(requests).toEqual(['/models/file.pt']);
  });

  test('and is no address is told', async () => {
    process.env.HTTPS_PROXY = 'socks5://proxy:1080';
    await expect(fetchFile()).rejects.toThrow(/^HTTPS_PROXY {2}socks5:\S+ is no address of a proxy/);
  });
});
