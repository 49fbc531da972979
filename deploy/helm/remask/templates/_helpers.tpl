{{- define "remask.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "remask.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "remask.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "remask.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "remask.selector" -}}
app.kubernetes.io/name: {{ include "remask.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "remask.labels" -}}
app.kubernetes.io/name: {{ include "remask.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "remask.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) -}}
{{- if hasPrefix "sha256:" $tag }}
{{- printf "%s@%s" .Values.image.repository $tag }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}

{{- define "remask.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "remask.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The name of the Secret with API keys, or nothing without keys. */}}
{{- define "remask.apiKeySecret" -}}
{{- if .Values.apiKeys.existingSecret }}
{{- .Values.apiKeys.existingSecret }}
{{- else if .Values.apiKeys.keys }}
{{- printf "%s-api-keys" (include "remask.fullname" .) }}
{{- end }}
{{- end }}

{{/* "true" if a model is on the hub: its name has an owner and is not a path. */}}
{{- define "remask.fromHub" -}}
{{- if regexMatch "(^|,)[A-Za-z0-9][^/,]*/[^/,]+(,|$)" .Values.model.id }}true{{ end }}
{{- end }}

{{- define "remask.cacheClaim" -}}
{{- default (printf "%s-cache" (include "remask.fullname" .)) .Values.cache.existingClaim }}
{{- end }}

{{- define "remask.gracePeriod" -}}
{{- $least := add .Values.preStopSeconds .Values.drainTimeout 5 | int }}
{{- $given := .Values.terminationGracePeriodSeconds | default (add $least 10) | int }}
{{- if lt $given $least }}
{{- fail (printf "terminationGracePeriodSeconds is %d; stopping takes preStopSeconds + drainTimeout + 5 = %d seconds at least" $given $least) }}
{{- end }}
{{- $given }}
{{- end }}
