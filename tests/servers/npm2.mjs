// npm @modelcontextprotocol/server 2.x: 2026-07-28, and the 2025 line without sessions.
import { answer, listen, options, require, tools } from './common.mjs';

const { Server, createMcpHandler } = require('@modelcontextprotocol/server');
const { getRequestListener } = require('@hono/node-server');

function build() {
    const server = new Server({ name: 'testbed-npm2', version: '1.0.0' }, { capabilities: { tools: { listChanged: true } } });
    server.setRequestHandler('tools/list', () => ({ tools }));
    server.setRequestHandler('tools/call', (request, ctx) => {
        const { name, arguments: args } = request.params;
        const notify = async (progress, total) => {
            const progressToken = ctx.mcpReq._meta?.progressToken;
            if (progressToken === undefined) return;
            await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total } });
        };
        return answer(name, args, notify, ctx.mcpReq.signal);
    });
    return server;
}

const handler = createMcpHandler(build, { responseMode: options.json ? 'json' : 'auto' });
listen(getRequestListener((request) => handler.fetch(request)));
