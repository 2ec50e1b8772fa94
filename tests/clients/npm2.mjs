// npm @modelcontextprotocol/client 2.x: both lines.
import { bearer, drive, require } from './common.mjs';
import { person } from './oauth.mjs';

const { Client, StreamableHTTPClientTransport, UnauthorizedError } = require('@modelcontextprotocol/client');

const MODES = { 2025: 'legacy', 2026: { pin: '2026-07-28' }, auto: 'auto' };

await drive(async ({ url, token, line, login }) => {
    let client, transport;
    const { provider, loggingIn } = login ? person(login, UnauthorizedError, (back) => transport.finishAuth(back)) : {};
    const connect = async () => {
        client = new Client({ name: 'testbed-npm2', version: '1.0.0' }, { versionNegotiation: { mode: MODES[line] } });
        transport = new StreamableHTTPClientTransport(new URL(url), { ...bearer(token), authProvider: provider });
        await client.connect(transport);
    };
    await (loggingIn ? loggingIn(connect) : connect());
    const about = {
        protocolVersion: client.getNegotiatedProtocolVersion(),
        serverInfo: client.getServerVersion(),
        capabilities: client.getServerCapabilities(),
        sessionId: transport.sessionId ?? null,
    };
    const call = (params, options) => client.callTool(params, options);
    const close = async () => {
        if (transport.sessionId !== undefined) await transport.terminateSession();
        await client.close();
    };
    return { client, about, call, close, loggingIn };
});
