{{/*
Names are fixed: CustomResourceDefinitions are the cluster's, so there is one installation in a cluster, and what the program
prints (a RoleBinding to `portcullis-secret-reader`, say) has to be true.
*/}}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/part-of: portcullis
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What never changes: a selector cannot be edited. */}}
{{- define "portcullis.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "portcullis.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The public URL's host, without port. */}}
{{- define "portcullis.publicHost" -}}
{{- regexReplaceAll ":[0-9]+$" (get (urlParse .Values.publicUrl) "host") "" -}}
{{- end }}

{{- define "portcullis.servicePort" -}}
{{- .Values.proxy.service.port | int | default (ternary 443 80 (eq .Values.tls.terminatedBy "Proxy")) -}}
{{- end }}

{{- define "portcullis.tlsSecret" -}}
{{- .Values.tls.secretName | default (ternary "portcullis-proxy-tls" "" .Values.tls.certManager.enabled) -}}
{{- end }}

{{- define "portcullis.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:portcullis-controller
{{- end }}

{{/* The name under which the API server calls the webhook. */}}
{{- define "portcullis.webhookHost" -}}
portcullis-webhook.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Whether the controller makes the webhook's certificates. */}}
{{- define "portcullis.ownCertificates" -}}
{{- if and .Values.webhook.enabled (not .Values.webhook.certManager.enabled) }}true{{ end -}}
{{- end }}

{{/* The Secrets that the controller writes for the webhook. */}}
{{- define "portcullis.webhookSecrets" -}}
{{- $own := list "portcullis-webhook-ca" "portcullis-webhook-tls" -}}
{{- concat (list "portcullis-webhook-path") (ternary $own list (not (not (include "portcullis.ownCertificates" .)))) | toJson -}}
{{- end }}

{{- define "portcullis.proxyUser" -}}
system:serviceaccount:{{ .Values.gateway.namespace }}:portcullis-proxy
{{- end }}

{{/* What the schema cannot see, because it is about two values, or about the release. */}}
{{- define "portcullis.check" -}}
{{- if not .Values.publicUrl }}
{{- fail "publicUrl is required: the https URL under which callers will reach the gateway, such as --set publicUrl=https://mcp.example.com; for a trial over `kubectl port-forward`, http://localhost:8420" }}
{{- end }}
{{- if eq .Release.Namespace .Values.gateway.namespace }}
{{- fail (printf "the release's namespace and gateway.namespace are both %q: what proxies may read must not hold signing keys; install with --namespace portcullis-system" .Release.Namespace) }}
{{- end }}
{{- $secure := hasPrefix "https://" .Values.publicUrl }}
{{- if eq .Values.tls.terminatedBy "Proxy" }}
{{- if not $secure }}
{{- fail "tls.terminatedBy is Proxy, but publicUrl is http: make publicUrl https" }}
{{- end }}
{{- if not (include "portcullis.tlsSecret" .) }}
{{- fail "tls.terminatedBy is Proxy, but there is no certificate: set tls.secretName, or tls.certManager.enabled" }}
{{- end }}
{{- end }}
{{- with .Values.tls.certManager }}
{{- if and .enabled (not .issuerRef.name) }}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef, such as {name: letsencrypt, kind: ClusterIssuer}" }}
{{- end }}
{{- if and .enabled (ne $.Values.tls.terminatedBy "Proxy") }}
{{- fail "tls.certManager is for proxies that end TLS: set tls.terminatedBy to Proxy, or let the ingress or Gateway have its own certificate" }}
{{- end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway to attach to, such as [{name: public, namespace: infra}]" }}
{{- end }}
{{- if and .Values.webhook.enabled (not .Values.admission.enabled) }}
{{- fail "webhook.enabled needs admission.enabled: only its policies ask for the verb `issue` and guard what the controller writes, so that what the webhook refuses could be had past it; set admission.enabled=true, or webhook.enabled=false too" }}
{{- end }}
{{- if and (or .Values.httpRoute.enabled .Values.ingress.enabled) (not $secure) }}
{{- fail "an Ingress or HTTPRoute serves others than this machine: make publicUrl https" }}
{{- end }}
{{- if lt (.Values.proxy.terminationGracePeriodSeconds | int) (add .Values.proxy.preStopSeconds 30) }}
{{- fail (printf "proxy.terminationGracePeriodSeconds must be at least proxy.preStopSeconds and 30 more (%d): calls under way have 25 s to end" (add .Values.proxy.preStopSeconds 30)) }}
{{- end }}
{{- with .Values.proxy.autoscaling }}
{{- if and .enabled (lt (.maxReplicas | int) (.minReplicas | int)) }}
{{- fail "proxy.autoscaling.maxReplicas is less than minReplicas" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pod Security `restricted`. The user is numeric, so that the kubelet can tell that it is not root. */}}
{{- define "portcullis.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "portcullis.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
{{- end }}

{{/* The admin listener answers to the Pod's own address, which is what the kubelet asks at. */}}
{{- define "portcullis.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Where Pods of a workload may run. Takes (list root values component). */}}
{{- define "portcullis.placement" -}}
{{- $root := index . 0 }}{{- $values := index . 1 }}{{- $component := index . 2 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
{{ toYaml $values.topologySpreadConstraints }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "portcullis.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ $component }}
{{- end }}
{{- end }}
{{- end }}

{{/* Arguments that both roles take. */}}
{{- define "portcullis.commonArgs" -}}
- --gateway-namespace={{ .Values.gateway.namespace }}
- --public-url={{ .Values.publicUrl }}
- {{ printf "--admin-listen=%s:8421" (include "portcullis.bindAddress" .) }}
- --max-staleness={{ .Values.maxStaleness }}
{{- $private := .Values.allowPrivateUpstreams }}
{{- if kindIs "slice" $private }}
{{- with $private }}
- --allow-private-upstreams={{ join "," . }}
{{- end }}
{{- else if $private }}
- --allow-private-upstreams=true
{{- end }}
{{- with .Values.denyUpstreams }}
- --deny-upstreams={{ join "," . }}
{{- end }}
- --cluster-domain={{ .Values.clusterDomain }}
{{- if .Values.extraCa.configMapName }}
- --extra-ca=/etc/portcullis/ca/{{ .Values.extraCa.key }}
{{- end }}
{{- end }}

{{- define "portcullis.bindAddress" -}}
{{- ternary (printf "[%s]" .Values.proxy.bindAddress) .Values.proxy.bindAddress (contains ":" .Values.proxy.bindAddress) -}}
{{- end }}
