// npm @modelcontextprotocol/sdk 1.x: the 2025 line, with sessions.
import { bearer, drive, require } from './common.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

await drive(async ({ url, token }) => {
    const client = new Client({ name: 'testbed-sdk1', version: '1.0.0' });
    const transport = new StreamableHTTPClientTransport(new URL(url), bearer(token));
    await client.connect(transport);
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
    return { client, about, call, close };
});
