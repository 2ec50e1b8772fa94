// npm @modelcontextprotocol/sdk 1.x: the 2025 line, with sessions.
import { bearer, drive, require } from './common.mjs';
import { person } from './oauth.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { UnauthorizedError } = require('@modelcontextprotocol/sdk/client/auth.js');

/** This line takes the code alone, so an error in its place is the application's to tell. */
async function finish(transport, back) {
    if (back.get('code') === null) throw new Error(`${back.get('error')}: ${back.get('error_description')}`);
    await transport.finishAuth(back.get('code'));
}

await drive(async ({ url, token, login }) => {
    let client, transport;
    const { provider, loggingIn } = login ? person(login, UnauthorizedError, (back) => finish(transport, back)) : {};
    const connect = async () => {
        client = new Client({ name: 'testbed-sdk1', version: '1.0.0' });
        transport = new StreamableHTTPClientTransport(new URL(url), { ...bearer(token), authProvider: provider });
        await client.connect(transport);
    };
    await (loggingIn ? loggingIn(connect) : connect());
    const about = {
        protocolVersion: transport.protocolVersion,
        serverInfo: client.getServerVersion(),
        capabilities: client.getServerCapabilities(),
        sessionId: transport.sessionId ?? null,
    };
    const call = (params, options) => client.callTool(params, undefined, options);
    const close = async () => {
        await transport.terminateSession();
        await client.close();
    };
    return { client, about, call, close, loggingIn };
});
