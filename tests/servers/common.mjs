// What both Node.js servers share: see README.md for the reports and the tools.
import { readFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

/** Loads packages from the installed test bed. */
export const require = createRequire(`${process.env.PORTCULLIS_TESTBED}/npm/`);
export const options = JSON.parse(process.argv[2] ?? '{}');
export const tools = JSON.parse(readFileSync(new URL('tools.json', import.meta.url), 'utf8'));

export function report(what) {
    writeSync(1, `${JSON.stringify(what)}\n`);
}

/** Serves `handle(req, res)` on a free loopback port, reporting each request first. */
export function listen(handle) {
    const server = createServer((req, res) => {
        const headers = [];
        for (let i = 0; i < req.rawHeaders.length; i += 2) {
            headers.push([req.rawHeaders[i].toLowerCase(), req.rawHeaders[i + 1]]);
        }
        report({ http: { method: req.method, target: req.url, headers } });
        if (new URL(req.url, 'http://x').pathname !== '/mcp') {
            res.writeHead(404).end();
            return;
        }
        handle(req, res);
    });
    server.listen(0, '127.0.0.1', () => report({ ready: server.address().port }));
}

/** What the tool `name` answers. `notify(n, total)` sends progress; `signal` fires when the call is cancelled. */
export async function answer(name, args, notify, signal) {
    report({ call: { tool: name, arguments: args ?? null } });
    const cancelled = () => report({ cancelled: { tool: name } });
    signal?.addEventListener('abort', cancelled);
    if (name === 'progress') {
        const steps = Number(args?.steps ?? 3);
        for (let n = 1; n <= steps; n++) await notify(n, steps);
    }
    if (name === 'wait') await sleep(Number(args?.ms ?? 0), undefined, { signal });
    signal?.removeEventListener('abort', cancelled);
    const text = JSON.stringify({ tool: name, arguments: args ?? null });
    return { content: [{ type: 'text', text }], ...(name === 'fail' ? { isError: true } : {}) };
}
