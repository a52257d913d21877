/** fetch through the proxy that the environment names: Node's own goes past it. */

import { UserError } from '../base/errors.ts';

type Undici = typeof import('undici-types');
type Fetch = typeof fetch;

const MODULE: string = 'undici'; // loaded by name, and only where a proxy is named: it takes a tenth of a second

export interface Fetcher {
  fetch: Fetch;
  close(): Promise<void>;
}

/** Goes by HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in capitals or not, as curl does. */
export async function openFetcher(): Promise<Fetcher> {
  const httpProxy = readProxy('http_proxy');
  const httpsProxy = readProxy('https_proxy');
  if (httpProxy === undefined && httpsProxy === undefined) return { fetch, close: async () => {} };
  const { EnvHttpProxyAgent, fetch: fetchThrough } = (await import(MODULE)) as Undici;
  // A tunnel for https only: many proxies refuse one to other ports. An empty address is none.
  const options = { httpProxy: httpProxy ?? '', httpsProxy: httpsProxy ?? '', proxyTunnel: false };
  const dispatcher = new EnvHttpProxyAgent(options);
  const through = (url: string, init: object) => fetchThrough(url, { ...init, dispatcher });
  return { fetch: through as unknown as Fetch, close: () => dispatcher.destroy() };
}

function readProxy(name: string): string | undefined {
  const given = process.env[name] || process.env[name.toUpperCase()];
  if (!given) return undefined;
  const address = given.includes('://') ? given : `http://${given}`;
  if (URL.canParse(address) && /^https?:/.test(address)) return address;
  throw new UserError(
    `${name.toUpperCase()}  ${given} is no address of a proxy. One such as http://HOST:PORT is needed.`,
  );
}
