// The line protocol that both Node.js clients speak: see README.md.
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

/** Loads packages from the installed test bed. */
export const require = createRequire(`${process.env.PORTCULLIS_TESTBED}/npm/`);

function failure(error) {
    const status = error.status ?? error.data?.status;
    return { error: { name: error.name, code: error.code ?? null, status: status ?? null, message: String(error.message) } };
}

async function step({ client, call, loggingIn = (ask) => ask() }, { op, name, arguments: args, progress }) {
    switch (op) {
        case 'list': {
            const tools = [];
            let cursor;
            do {
                const page = await client.listTools(cursor === undefined ? undefined : { cursor });
                tools.push(...page.tools);
                cursor = page.nextCursor;
            } while (cursor !== undefined);
            return { ok: { tools } };
        }
        case 'call': {
            const seen = [];
            const onprogress = progress ? (p) => seen.push(p.progress) : undefined;
            const ok = await loggingIn(() => call({ name, arguments: args }, { onprogress }));
            return progress ? { ok, progress: seen } : { ok };
        }
        case 'ping':
            return { ok: await client.ping() };
        default:
            throw new Error(`no such step: ${op}`);
    }
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function say(message) {
    writeSync(1, `${JSON.stringify(message)}\n`);
}

/** Sends the person to `url`; what comes back to the redirect URI. */
export async function browse(url) {
    say({ authorize: String(url) });
    const { callback, page } = JSON.parse((await lines.next()).value);
    if (callback === undefined) throw new Error(`the person is shown: ${page}`);
    return new URL(callback).searchParams;
}

/** Runs the steps from stdin, of one session after the other. `connect({url, token, line, login})` gives `{client, about, call, close, loggingIn?}`. */
export async function drive(connect) {
    let connected;
    for (let next = await lines.next(); !next.done; next = await lines.next()) {
        let answer;
        try {
            const message = JSON.parse(next.value);
            if (connected === undefined) {
                connected = await connect(message);
                answer = { ok: connected.about };
            } else if (message.op === 'end') {
                const { close } = connected;
                connected = undefined;
                await close();
                answer = { ok: null };
            } else {
                answer = await step(connected, message);
            }
        } catch (error) {
            answer = failure(error);
        }
        say(answer);
    }
    await connected?.close();
    process.exit(0);
}

export function bearer(token) {
    return token ? { requestInit: { headers: { Authorization: `Bearer ${token}` } } } : {};
}
