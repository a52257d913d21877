/** The server's page as HTML: a place to drop videos on, and what its script fills. It knows no secret and loads nothing. */

import { html } from '@remix-run/html-template';
import { formatBytes, formatDuration } from '../../../base/format.ts';
import { renderDocument } from '../../../base/page/document.ts';
import { type PageScript, readScript } from '../../../base/page/script.ts';

export const SERVER_SCRIPT: PageScript = { name: 'server-page.js', entry: 'inference/server/page/script.ts' };
const ALLOWED = ['media-src blob:', "connect-src 'self'", "form-action 'none'", "base-uri 'none'"];

/** Returns the page of a server with these limits. */
export async function renderPage({
  maxBytes,
  maxDuration,
}: {
  maxBytes: number;
  maxDuration: number;
}): Promise<string> {
  return renderDocument({
    title: 'coldframe: what is in a video',
    styles: 'inference/server/page/page.css',
    script: await readScript(SERVER_SCRIPT),
    allowed: ALLOWED,
    body: html`<main>
<h1>What is in a video</h1>
<p class="quiet">Up to ${formatBytes(maxBytes)} and ${formatDuration(maxDuration)} (h:m:s) each. A video is looked at and then forgotten.</p>
<noscript><p class="warning">This page needs its script. Without it: <code>curl -F video=@FILE</code> to <code>/predict</code> here.</p></noscript>
<form id="access" hidden>
<label for="token">This server asks for its token</label>
<input type="text" autocomplete="username" value="coldframe" hidden>
<div class="row"><input id="token" type="password" autocomplete="current-password" required><button>Use it</button></div>
<p id="refused" class="warning" hidden>That is not the token.</p>
</form>
<div id="drop">
<input id="file" type="file" accept="video/*,.mkv,.avi,.ts,.flv,.gif" multiple aria-describedby="drop-help">
<label for="file">Choose videos</label>
<p id="drop-help">or drop them on this page</p>
</div>
<p><label><input id="more" type="checkbox" checked> Also when each class is seen, and where the decoder looks</label></p>
<p id="state" role="status"></p>
<div id="answers"></div>
</main>
<template id="answer">
<article>
<h2></h2>
<div class="sides">
<video controls muted playsinline preload="metadata"></video>
<div>
<p class="what"></p>
<div class="row going"><progress max="1" value="0" aria-label="Upload"></progress><button type="button" class="stop">Stop</button></div>
<ol class="classes"></ol>
</div>
</div>
<div class="when"></div>
<div class="where"></div>
</article>
</template>`,
  });
}
