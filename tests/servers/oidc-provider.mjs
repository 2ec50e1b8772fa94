// An authorization server: npm oidc-provider with everything on that clients of MCP servers meet. See README.md for its
// options, its reports, and the control port.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { options, report, require } from './common.mjs';

const { Provider, errors } = await import(require.resolve('oidc-provider'));

// --- What it keeps: one map for each kind of object, so that a test can look at all of it and take things away. --------------

const kept = new Map();

function all(kind) {
    if (!kept.has(kind)) kept.set(kind, new Map());
    return kept.get(kind);
}

class Adapter {
    constructor(kind) {
        this.kind = kind;
        this.objects = all(kind);
    }

    async upsert(id, payload, expiresIn) {
        const until = expiresIn === undefined ? Infinity : Date.now() + expiresIn * 1000;
        this.objects.set(id, { payload, until });
    }

    async find(id) {
        const found = this.objects.get(id);
        return found !== undefined && found.until > Date.now() ? found.payload : undefined;
    }

    async findByUid(uid) {
        for (const { payload } of this.objects.values()) if (payload.uid === uid) return payload;
        return undefined;
    }

    async consume(id) {
        this.objects.get(id).payload.consumed = Math.floor(Date.now() / 1000);
    }

    async destroy(id) {
        this.objects.delete(id);
    }

    async revokeByGrantId(grant) {
        for (const objects of kept.values()) {
            for (const [id, { payload }] of objects) if (payload.grantId === grant) objects.delete(id);
        }
    }
}

// --- The provider --------------------------------------------------------------------------------------------------------

const scopes = options.scopes ?? ['mcp:use'];

function isResource(identifier) {
    return (options.resources ?? []).includes(identifier) || identifier.startsWith(options.resourcePrefix ?? '\0');
}

/** Whom the request is about, if that is known by now. */
function person(ctx) {
    return ctx.oidc.entities.AuthorizationCode?.accountId ?? ctx.oidc.session?.accountId;
}

/**
 * The dispatcher that comes with the request refuses loopback and private addresses; a test that serves there opts in. Its signal
 * gives up after two and a half seconds, which a loaded machine may need.
 */
function fetchFromLoopback(url, { dispatcher, signal, ...init }) {
    return globalThis.fetch(url, init);
}

/** The only hook that sees a registration before it is stored and answered: the provider gives no secret an end. */
function endSecret(ctx, key, value, metadata) {
    if (options.secretLifetime === undefined || ctx?.oidc.route !== 'registration') return;
    if (metadata.client_secret !== undefined) {
        metadata.client_secret_expires_at = metadata.client_id_issued_at + options.secretLifetime;
    }
}

/** RFC 7592 section 2.1: a read may answer with another token as well. The provider has that of updates alone. */
async function rotateOnRead(ctx) {
    await ctx.oidc.entities.RegistrationAccessToken.destroy();
    ctx.body.registration_access_token = await new provider.RegistrationAccessToken({ client: ctx.oidc.client }).save();
}

function signingKey() {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    // No `kid`: the provider derives it from the key (RFC 7638), so that two of them never share one.
    return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' };
}

function configuration() {
    return {
        adapter: Adapter,
        jwks: { keys: [signingKey()] },
        clientDefaults: { id_token_signed_response_alg: 'ES256' },
        cookies: { keys: ['the-key-of-the-cookies'] },
        // What a resource asks for must be granted as a scope of the provider too, or it asks for consent without end.
        scopes: ['openid', 'offline_access', ...scopes],
        claims: { openid: ['sub'], groups: ['groups'] },
        extraClientMetadata: { properties: [...(options.keep ?? []), 'ends'], validator: endSecret },
        extraTokenClaims: (ctx, token) => ({ groups: options.groups?.[token.accountId] }),
        findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub, groups: options.groups?.[sub] }) }),
        issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
        rotateRefreshToken: true,
        pkce: { required: () => true },
        ttl: {
            AccessToken: (ctx, token) => token.resourceServer?.accessTokenTTL ?? 300,
            ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? 300,
            RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, IdToken: 300,
        },
        ...(options.fetchFromLoopback ? { fetch: fetchFromLoopback } : {}),
        features: {
            devInteractions: { enabled: true },
            rpInitiatedLogout: { enabled: false },
            clientCredentials: { enabled: true },
            revocation: { enabled: true },
            registration: {
                enabled: options.registration ?? true,
                initialAccessToken: options.initialAccessToken ?? false,
            },
            registrationManagement: {
                enabled: (options.registration ?? true) && (options.management ?? true),
                rotateRegistrationAccessToken: options.rotate ?? true,
            },
            clientIdMetadataDocument: { enabled: options.cimd ?? false, ack: 'draft-02', cacheDuration: { min: 0, max: 60 } },
            resourceIndicators: {
                enabled: true,
                defaultResource: (ctx, client, oneOf) => oneOf?.[0],
                useGrantedResource: () => true,
                getResourceServerInfo: (ctx, identifier) => {
                    if (!isResource(identifier)) throw new errors.InvalidTarget();
                    const lifetime = options.accessTokenLifetime ?? 300;
                    const withheld = options.withheld?.[person(ctx)] ?? [];
                    return {
                        scope: scopes.filter((scope) => !withheld.includes(scope)).join(' '),
                        audience: identifier,
                        accessTokenTTL: lifetime,
                        accessTokenFormat: options.accessTokenFormat ?? 'jwt',
                        jwt: { sign: { alg: 'ES256' } },
                    };
                },
            },
        },
    };
}

// --- The control port: what a test looks at and takes away, beside the protocol. --------------------------------------------

const counts = {};

function control(method, [kind, id, what]) {
    const clients = all('Client');
    switch (`${method} ${kind} ${what ?? ''}`.trim()) {
        case 'GET counts':
            return counts;
        case 'GET clients':
            return [...clients.values()].map(({ payload }) => payload);
        case 'DELETE clients':
            return clients.delete(id);
        case 'POST clients expired':
            clients.get(id).payload.client_secret_expires_at = 1;
            return true;
        case 'DELETE clients token': {
            const tokens = all('RegistrationAccessToken');
            const found = [...tokens].filter(([, { payload }]) => payload.clientId === id);
            for (const [token] of found) tokens.delete(token);
            return found.length > 0;
        }
        case 'DELETE initial-access-tokens': {
            const some = all('InitialAccessToken').size > 0;
            all('InitialAccessToken').clear();
            return some;
        }
        default:
            return undefined;
    }
}

async function answerControl(provider, req, res) {
    const path = new URL(req.url, 'http://x').pathname.split('/').slice(1).map(decodeURIComponent);
    const made = req.method === 'POST' && path[0] === 'initial-access-tokens';
    const answer = made ? await new provider.InitialAccessToken({}).save() : control(req.method, path);
    res.writeHead(answer === undefined || answer === false ? 404 : 200, { 'content-type': 'application/json' });
    res.end(JSON.stringify(answer ?? null));
}

// --- Listening -----------------------------------------------------------------------------------------------------------

function listening(server) {
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

const server = createServer();
const port = await listening(server);
const provider = new Provider(options.issuer ?? `http://127.0.0.1:${port}`, configuration());
provider.use(async (ctx, next) => {
    const { method, url: target } = ctx.req;
    report({ http: { method, target } });
    await next();
    const kind = ctx.oidc?.route ?? 'other';
    if (options.rotateOnRead && kind === 'client' && ctx.status === 200) await rotateOnRead(ctx);
    counts[kind] = (counts[kind] ?? 0) + 1;
    report({ answer: { kind, status: ctx.status } });
});
provider.on('server_error', (ctx, error) => process.stderr.write(`${error.stack}\n`));
server.on('request', provider.callback());
const controls = createServer((req, res) => {
    answerControl(provider, req, res).catch((error) => res.writeHead(500).end(String(error)));
});
// Whoever started it holds the other end, whatever becomes of them.
process.stdin.on('end', () => process.exit(0)).resume();
report({ ready: port, control: await listening(controls) });
