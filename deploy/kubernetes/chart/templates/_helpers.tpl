{{- define "pipegen.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "pipegen.fullname" -}}
{{- $name := include "pipegen.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pipegen.selector" -}}
app.kubernetes.io/name: {{ include "pipegen.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "pipegen.labels" -}}
{{ include "pipegen.selector" . }}
app.kubernetes.io/part-of: pipegen
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- /* Metadata of an object: a list of the root, its name and its namespace. */ -}}
{{- define "pipegen.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 | quote }}
namespace: {{ index . 2 | quote }}
labels:
  {{- include "pipegen.labels" $root | nindent 2 }}
{{- end -}}

{{- define "pipegen.secret" -}}
{{- default (include "pipegen.fullname" .) .Values.secret.existing -}}
{{- end -}}

{{- define "pipegen.key" -}}
{{- default (printf "%s-key" (include "pipegen.fullname" .)) .Values.key.existing -}}
{{- end -}}

{{- define "pipegen.claim" -}}
{{- default (include "pipegen.fullname" .) .Values.persistence.existing -}}
{{- end -}}

{{- define "pipegen.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository .Values.image.tag -}}
{{- end -}}
{{- end -}}

{{- /* What --config says: the values, and what follows from where things are. */ -}}
{{- define "pipegen.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $kubernetes := default dict $config.kubernetes -}}
{{- $place := dict "namespace" .Values.agents.namespace "service_account" .Values.agents.serviceAccount.name "url" (printf "http://%s.%s.svc:%d" (include "pipegen.fullname" .) .Release.Namespace (int .Values.service.port)) -}}
{{- $_ := set $config "kubernetes" (merge $kubernetes $place) -}}
{{- if ne $config.kubernetes.namespace .Values.agents.namespace -}}
{{- fail (printf "config.kubernetes.namespace is %q and agents.namespace %q: the controller has rights in the latter alone; set that" $config.kubernetes.namespace .Values.agents.namespace) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not $config.url) -}}
{{- $_ := set $config "url" (printf "https://%s" .Values.ingress.host) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* Helm's encoder of YAML gives nothing at all for a value with one of these characters, and changes others. */ -}}
{{- define "pipegen.check" -}}
{{- if regexMatch "[\\x{7f}-\\x{9f}\\x{fffe}\\x{ffff}]|\\\\u202[89]" (toJson .Values) -}}
{{- fail "a value holds a control character (U+007F to U+009F) or a separator of lines (U+2028, U+2029)" -}}
{{- end -}}
{{- end -}}
