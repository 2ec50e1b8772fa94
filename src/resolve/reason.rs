//! Findings, and the one list of their reasons.

use std::{borrow::Cow, fmt};

use crate::api::{FieldPath, Problem, schema::ProblemKind};

/// Something that the author of an object should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable word for it.
    pub reason: Reason,
    /// Where in the object.
    pub field: FieldPath,
    /// What is wrong, in words. Never holds a secret.
    pub message: String,
    /// What to do about it.
    pub remedy: Cow<'static, str>,
    /// Whether the object is wrong in itself.
    pub severity: Severity,
}

/// Findings about one object.
pub type Findings = Vec<Finding>;

/// Whether an object is wrong in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It depends on other objects, or is risky: the object is accepted, and what is enforced is the safe choice.
    Warning,
    /// The object is wrong in itself and is refused.
    Error,
}

impl Severity {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "Warning",
            Severity::Error => "Error",
        }
    }
}

impl Finding {
    /// A finding with the reason's usual remedy and severity.
    pub fn new(reason: Reason, field: FieldPath, message: impl Into<String>) -> Self {
        Self {
            reason,
            field,
            message: message.into(),
            remedy: Cow::Borrowed(reason.remedy()),
            severity: reason.severity(),
        }
    }

    /// The same finding with a remedy that fits this case.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_root() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({}); {}", self.message, self.reason.as_str(), self.remedy)
    }
}

impl From<&Problem> for Finding {
    fn from(problem: &Problem) -> Self {
        let reason = match problem.kind {
            ProblemKind::Unknown => Reason::UnknownField,
            ProblemKind::Missing => Reason::FieldMissing,
            ProblemKind::Type => Reason::TypeMismatch,
            ProblemKind::Value => Reason::ValueInvalid,
            ProblemKind::Bounds => Reason::BoundsExceeded,
            ProblemKind::Duplicate => Reason::DuplicateEntry,
        };
        Finding::new(reason, problem.path.clone(), problem.message.clone())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $severity:ident, $remedy:literal;)+) => {
        /// Why a finding was made: a stable word for conditions, output and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in alphabetical order within its severity.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The word itself.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name)),+ }
            }

            /// What it means.
            pub fn doc(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii()),+ }
            }

            /// What to do about it, unless the finding says so more precisely.
            pub fn remedy(self) -> &'static str {
                match self { $(Reason::$name => $remedy),+ }
            }

            /// Whether an object with such a finding is wrong in itself.
            pub fn severity(self) -> Severity {
                match self { $(Reason::$name => Severity::$severity),+ }
            }
        }
    };
}

reasons! {
    /// A client's token would be accepted in another namespace.
    AudienceForeign: Error, "name servers of this namespace; others are for McpClients of the system namespace";
    /// An audience holds characters that no audience has.
    AudienceInvalid: Error, "write the audience exactly as tokens carry it";
    /// How a client authenticates does not fit what it is.
    AuthMethodInvalid: Error, "leave tokenEndpointAuthMethod out, or use one that fits";
    /// A principal does not say which McpAuthorizationServer it comes from.
    AuthorityMissing: Error, "set authority on the entry, or spec.authority for all of them";
    /// A value is longer, larger or more than allowed.
    BoundsExceeded: Error, "stay within the bounds";
    /// An exception for an emergency does not say why, is not an Allow, or has no beginning or end.
    BreakGlassInvalid: Error, "give breakGlass a reason, and the Allow notBefore and notAfter; or leave breakGlass out";
    /// An exception for an emergency holds for longer than one may.
    BreakGlassTooLong: Error, "let it hold for 24 hours at most; it can be written again";
    /// Not exactly one of several choices was made.
    ChoiceInvalid: Error, "make exactly one of the choices";
    /// A client's id is missing, or is not its author's to give.
    ClientIdInvalid: Error, "give clientId for Preregistered, or for CIMD where the client has a document of its own";
    /// What is asked for exists in a cluster only, and this gateway stands alone.
    ClusterNeeded: Error, "run Portcullis in a cluster, or use something else";
    /// A condition does not compile, or is beyond its bounds.
    ConditionInvalid: Error, "see Conditions in docs/policies.md";
    /// What identifies the gateway to the upstream cannot be sent.
    CredentialsInvalid: Error, "send credentials in Authorization or a header of the vendor's own";
    /// Two entries of a list have the same key.
    DuplicateEntry: Error, "remove or rename one of them";
    /// Two documents claim to be the same object.
    DuplicateObject: Error, "remove or rename one of them";
    /// A length of time is not readable.
    DurationInvalid: Error, "write it like 30s, 15m or 1h";
    /// A required field is missing.
    FieldMissing: Error, "add the field";
    /// The file that the object was last read from cannot be read.
    FileUnreadable: Error, "mend the file";
    /// The ways in which a client comes to tokens contradict each other, or its redirect URIs.
    GrantTypesInvalid: Error, "use authorization_code with redirectUris, or client_credentials without";
    /// An issuer is not an https URL without query and fragment.
    IssuerInvalid: Error, "write the issuer exactly as the iss of its tokens, an https URL";
    /// A client's own keys are not public keys for signatures.
    KeysInvalid: Error, "register public keys of the types EC, OKP or RSA";
    /// Only policies of the system namespace reach other namespaces.
    NamespaceSelectorNotAllowed: Error, "remove namespaceSelector, or put the policy into the system namespace";
    /// The field is known, but nothing enforces it in this build.
    NotYetEnforced: Error, "remove the field; nothing is accepted and ignored";
    /// What the object comes to is larger than the API server stores.
    ObjectTooLarge: Error, "split it into several, or leave out what is long";
    /// A path cannot be served.
    PathInvalid: Error, "leave path out, or write /<namespace>/<name>";
    /// A pattern is empty, or holds characters that are reserved.
    PatternInvalid: Error, "use * for any characters; exact names belong in names";
    /// A principal matches nobody, or contradicts itself.
    PrincipalInvalid: Error, "give matchers that one caller can meet together";
    /// A redaction pointer is not a JSON pointer below /args.
    RedactInvalid: Error, "write it like /args/password (RFC 6901)";
    /// A redirect URI is no exact place that nobody but the client can be at.
    RedirectUriInvalid: Error, "write it as the client sends it: https, http at a loopback address, or a scheme such as com.example.app";
    /// How clients are registered at an issuer contradicts itself.
    RegistrationInvalid: Error, "see spec.registration in docs/clients.md";
    /// A revocation does not say exactly which tokens.
    RevocationInvalid: Error, "give either jti, or subject and issuedBefore";
    /// An Allow can never grant: a Deny of the same policy that has no message refuses all of it.
    RuleContradicted: Error, "narrow the Deny (except, tools, notAfter), remove one of them, or give the Deny a message to show";
    /// A rule does not say what it is about.
    RuleEmpty: Error, "add tools";
    /// A scope is not a scope token, or must not be asked for.
    ScopeInvalid: Error, "use visible ASCII characters without blanks, quotes and backslashes (RFC 6749)";
    /// A label selector is contradictory.
    SelectorInvalid: Error, "In and NotIn need values; Exists and DoesNotExist have none";
    /// A policy does not say which servers it reaches.
    TargetsInvalid: Error, "name servers, or give a selector; selector: {} means every server";
    /// A time is not readable.
    TimeInvalid: Error, "write it like 2026-01-31T09:00:00Z (RFC 3339)";
    /// A value of the wrong type.
    TypeMismatch: Error, "write a value of the expected type";
    /// A field that is not known here, perhaps misspelled.
    UnknownField: Error, "correct or remove the field";
    /// The upstream's URL cannot be called.
    UpstreamInvalid: Error, "write an absolute https:// URL without user information and fragment";
    /// A value that is not allowed here.
    ValueInvalid: Error, "use an allowed value";
    /// A rule's time window is empty.
    WindowInvalid: Error, "let notBefore be earlier than notAfter";

    /// No Allow at the servers that a policy reaches grants what one of its RequireApproval rules is about.
    ApprovalUnreachable: Warning, "remove the rule, or write the Allow that it is meant to limit";
    /// This build cannot ask for approvals: calls that need one are refused.
    ApprovalsUnavailable: Warning, "use Deny to say so plainly, or keep it for a build with approvals";
    /// A condition takes an argument for given that calls of a reviewed tool may leave out.
    ArgumentNotRequired: Warning, "guard it: has(args.x) && …";
    /// A condition takes an argument for something of another type than every reviewed tool has there that the rule is about.
    ArgumentType: Warning, "compare it with a value of its type, or convert it: int(), double(), string()";
    /// No McpAuthorizationServer of the server allows the audience: it is not accepted.
    AudienceNotAllowed: Warning, "add it to allowedAudiences of the McpAuthorizationServer, or remove it here";
    /// Two McpAuthorizationServers of a server have the same issuer: the server takes no calls.
    AuthorityAmbiguous: Warning, "keep one McpAuthorizationServer per issuer";
    /// An McpAuthorizationServer does not exist or is invalid.
    AuthorityNotFound: Warning, "create the McpAuthorizationServer, or correct the name";
    /// The McpAuthorizationServer is not the gateway's own issuer: it gives the client no token.
    AuthorityNotLocal: Warning, "name an McpAuthorizationServer with local: {}";
    /// A server does not accept tokens of the McpAuthorizationServer.
    AuthorityNotTrusted: Warning, "add it to spec.authorization.servers of the McpServer";
    /// The McpAuthorizationServer is the gateway's own issuer, or the cluster: no client is registered there.
    AuthorityRegistersNobody: Warning, "name an McpAuthorizationServer with an issuer, or use the method Token";
    /// Certificates cannot be read from a ConfigMap: what needs them is not used.
    CaInvalid: Warning, "put PEM certificates under the key";
    /// An McpClient does not exist, is invalid or not registered yet, or belongs to another McpAuthorizationServer than the
    /// entry that names it.
    ClientNotFound: Warning, "create the McpClient, or correct the name or the authority";
    /// The API server does not say who issues ServiceAccount tokens, or nobody has asked it yet: none is believed.
    ClusterIssuerUnknown: Warning, "let the controller read /.well-known/openid-configuration of the API server";
    /// A ConfigMap or its key does not exist: what needs it is not used.
    ConfigMapNotFound: Warning, "create the ConfigMap with that key, or correct the reference";
    /// A principal is named by group, but tokens of its McpAuthorizationServer carry none: the entry matches nobody.
    GroupsNotMapped: Warning, "set validation.groups of the McpAuthorizationServer, or name persons";
    /// An upstream does not name the issuer any more that tokens for it are asked of: the server takes no calls, and nothing is
    /// sent to another issuer.
    IssuerChanged: Warning, "if the upstream has moved, name an McpClient of an McpAuthorizationServer with its new issuer";
    /// A tool lock cannot be read: no tool counts as reviewed.
    LockInvalid: Warning, "write it with portcullis scan URL --lock";
    /// A tool lock is not the one that was reviewed: no tool counts as reviewed.
    LockMismatch: Warning, "review the lock, then set spec.tools.lock.sha256 to the digest of what was reviewed";
    /// A tool lock, or its key in the ConfigMap, does not exist: no tool counts as reviewed.
    LockNotFound: Warning, "create the ConfigMap with that key (portcullis scan URL --lock), or correct the reference";
    /// The McpAuthorizationServer does not allow the method: the client is not registered.
    MethodNotAllowed: Warning, "add a method to spec.registration.methods of the McpAuthorizationServer, or use another one";
    /// Labels of a namespace are not known: of guardrails that ask for them, Deny and RequireApproval count, Allow does not.
    NamespaceNotFound: Warning, "add the Namespace with its labels to the manifests";
    /// A policy only narrows, and nothing grants at the servers that it reaches.
    NothingAllowed: Warning, "write an Allow: what no rule allows is denied anyway";
    /// Several servers claim one path: none of them takes calls.
    PathConflict: Warning, "give each server a path of its own";
    /// Credentials or arguments travel unencrypted.
    PlaintextUpstream: Warning, "use https";
    /// A redirect URI names localhost, by which a person's machine may know another one.
    RedirectUriLocalhost: Warning, "use http://127.0.0.1 or http://[::1], if the client can (RFC 8252 section 8.3)";
    /// A rule changes nothing: another rule of the same policy covers all of it.
    RuleShadowed: Warning, "remove it, or say what it is meant to add";
    /// A server asks for scopes, and tokens of an authority that it accepts carry none: its callers are refused.
    ScopesNotCarried: Warning, "leave the scopes out, or serve these callers by an McpServer without scopes";
    /// The controller was not given the right to read a Secret: the server takes no calls, and the client is not looked after.
    SecretForbidden: Warning, "whoever owns the namespace applies the RoleBinding that the status shows";
    /// A Secret does not name the upstream's host among those that it may be sent to: the server takes no calls.
    SecretHostNotAllowed: Warning, "whoever owns the Secret adds the host to its annotation portcullis.dev/allowed-hosts";
    /// A Secret's value cannot be sent in a header, or is no client secret: the server takes no calls, and the client is not
    /// looked after.
    SecretInvalid: Warning, "store the value without line breaks and control characters (printf, not echo)";
    /// A Secret or its key does not exist: the server takes no calls, and the client is not looked after.
    SecretNotFound: Warning, "create the Secret with that key, or correct the reference";
    /// A policy or client names a server that does not exist.
    ServerNotFound: Warning, "create the McpServer, or correct the name";
    /// What was resolved of a server is larger than an object of Kubernetes may be: it takes no calls.
    ServerTooLarge: Warning, "shorten its certificates, its lock or its lists";
    /// A principal is a ServiceAccount, but its McpAuthorizationServer is not the cluster: the entry matches nobody.
    ServiceAccountUnknown: Warning, "name an McpAuthorizationServer with kubernetes: {}";
    /// A rule names a tool that was not reviewed at any of the servers that the policy reaches.
    ToolNotFound: Warning, "correct the name, or renew the tool lock";
    /// The McpClient that the gateway is to be at an upstream's issuer is not there, or cannot be used: the server takes no calls.
    UpstreamClientUnfit: Warning, "name an McpClient that is registered, speaks for itself, and authenticates";
    /// Nobody knows yet where tokens for an upstream are to be had: the server takes no calls.
    UpstreamNotDiscovered: Warning, "let the upstream serve its metadata (RFC 9728), with the issuer and the URL that is called";
    /// There is no token for the upstream yet: the server takes no calls.
    UpstreamTokenMissing: Warning, "let the controller create tokens of the ServiceAccount portcullis-upstream";
    /// An upstream or its issuer could not be asked again whom it trusts, and where tokens are: what was said last counts.
    UpstreamTrustUnconfirmed: Warning, "let the upstream serve its metadata (RFC 9728), and its issuer its own";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented_and_sorted() {
        for reason in Reason::ALL {
            assert!(reason.doc().ends_with('.'), "{reason:?}");
            assert!(!reason.remedy().is_empty() && !reason.remedy().ends_with('.'), "{reason:?}");
        }
        for severity in [Severity::Error, Severity::Warning] {
            let names: Vec<_> = Reason::ALL.iter().filter(|r| r.severity() == severity).map(|r| r.as_str()).collect();
            assert!(names.is_sorted(), "{names:?}");
        }
    }
}
