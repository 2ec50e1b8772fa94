// What both lines of the npm SDK leave to the application: where things are kept, and the way to the browser and back.
import { randomUUID } from 'node:crypto';
import { browse } from './common.mjs';

/** An `OAuthClientProvider` that keeps everything in memory. */
class Provider {
    constructor({ redirect, client, document, grants }) {
        this.redirectUrl = redirect;
        this.clientMetadataUrl = document;
        this.clientMetadata = {
            client_name: 'Test bed', redirect_uris: [redirect], grant_types: grants, response_types: ['code'],
            token_endpoint_auth_method: 'none',
        };
        this.kept = { client };
    }

    state() {
        return (this.kept.state = randomUUID());
    }

    clientInformation() {
        return this.kept.client;
    }

    saveClientInformation(client) {
        this.kept.client = client;
    }

    tokens() {
        return this.kept.tokens;
    }

    saveTokens(tokens) {
        this.kept.tokens = tokens;
    }

    codeVerifier() {
        return this.kept.verifier;
    }

    saveCodeVerifier(verifier) {
        this.kept.verifier = verifier;
    }

    discoveryState() {
        return this.kept.discovery;
    }

    saveDiscoveryState(discovery) {
        this.kept.discovery = discovery;
    }

    redirectToAuthorization(url) {
        this.kept.sent = url;
    }
}

/**
 * How a program uses the SDK's own OAuth: when it says `UnauthorizedError` and has an authorization URL, the person is sent
 * there, `finish` hands the SDK what came back, and what was asked is asked again, once.
 */
export function person(login, UnauthorizedError, finish) {
    const provider = new Provider(login);
    const loggingIn = async (ask) => {
        try {
            return await ask();
        } catch (error) {
            const sent = provider.kept.sent;
            if (!(error instanceof UnauthorizedError) || sent === undefined) throw error;
            provider.kept.sent = undefined;
            const back = await browse(sent);
            if (back.get('state') !== provider.kept.state) throw new Error('another state came back');
            await finish(back);
            return await ask();
        }
    };
    return { provider, loggingIn };
}
