// npm @modelcontextprotocol/sdk 1.x: the 2025 line, with sessions unless `stateless`.
import { randomUUID } from 'node:crypto';
import { answer, listen, options, require, tools } from './common.mjs';

const { Server } = require('@modelcontextprotocol/sdk/server/index.js');
const { StreamableHTTPServerTransport } = require('@modelcontextprotocol/sdk/server/streamableHttp.js');
const { CallToolRequestSchema, ListToolsRequestSchema } = require('@modelcontextprotocol/sdk/types.js');

function build() {
    const server = new Server({ name: 'testbed-sdk1', version: '1.0.0' }, { capabilities: { tools: { listChanged: true } } });
    server.setRequestHandler(ListToolsRequestSchema, () => ({ tools }));
    server.setRequestHandler(CallToolRequestSchema, (request, extra) => {
        const { name, arguments: args, _meta } = request.params;
        const notify = async (progress, total) => {
            const progressToken = _meta?.progressToken;
            if (progressToken === undefined) return;
            await extra.sendNotification({ method: 'notifications/progress', params: { progressToken, progress, total } });
        };
        return answer(name, args, notify, extra.signal);
    });
    return server;
}

const sessions = new Map();

async function transportFor(req) {
    const id = req.headers['mcp-session-id'];
    if (id !== undefined && !options.stateless) return sessions.get(id);
    const transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: options.stateless ? undefined : () => randomUUID(),
        enableJsonResponse: options.json === true,
        onsessioninitialized: (id) => sessions.set(id, transport),
        onsessionclosed: (id) => sessions.delete(id),
    });
    await build().connect(transport);
    return transport;
}

listen(async (req, res) => {
    const transport = await transportFor(req);
    if (transport === undefined) {
        const error = { code: -32001, message: 'Session not found' };
        res.writeHead(404, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', error, id: null }));
        return;
    }
    await transport.handleRequest(req, res);
});
