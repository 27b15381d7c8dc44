{{- define "asu.labels" -}}
app.kubernetes.io/name: asu-builder
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "asu.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The environment of every node: the parts of this chart, then what the operator names. */ -}}
{{- define "asu.environment" -}}
{{- if .Values.postgresql.enabled }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "postgresql.passwordSecret names a Secret with the key password" .Values.postgresql.passwordSecret }}
      key: password
- name: ASU_DATABASE_URL
  value: postgresql://asu@{{ .Release.Name }}-postgresql:5432/asu
{{- end }}
{{- if .Values.objects.enabled }}
- name: ASU_STORE_URL
  value: s3://asu-images
- name: AWS_ENDPOINT_URL
  value: http://{{ .Release.Name }}-objects:8333
- name: AWS_REGION
  value: us-east-1
- name: AWS_ACCESS_KEY_ID
  value: asu
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ required "objects.passwordSecret names a Secret with the key password" .Values.objects.passwordSecret }}
      key: password
{{- else }}
- name: ASU_STORE_URL
  value: {{ required "objects.url names the bucket where the chart brings no S3 server" .Values.objects.url | quote }}
{{- end }}
{{- if .Values.redis.enabled }}
- name: ASU_REDIS_URL
  value: redis://{{ .Release.Name }}-redis:6379/0
{{- end }}
{{- with .Values.trustedProxies }}
- name: ASU_TRUSTED_PROXIES
  value: {{ join " " . | quote }}
{{- end }}
{{- end }}

{{- /* Settings of one role. */ -}}
{{- define "asu.role" -}}
{{- range $name, $value := . }}
- {name: ASU_{{ upper $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- /* Files of Secrets with the mode that keys need: a volume of Kubernetes lets a group read them. */ -}}
{{- define "asu.copyFiles" -}}
- name: files
  image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, -c, "find /secrets -follow -type f -not -path '*/..*' -exec install -m 400 -t /run/asu {} +"]
  securityContext: {{- include "asu.security" . | nindent 4 }}
  volumeMounts:
    - {name: files, mountPath: /run/asu}
    {{- if .Values.filesSecret }}
    - {name: secret-files, mountPath: /secrets/all}
    {{- end }}
    {{- if and .signs .Values.signingFilesSecret }}
    - {name: signing-files, mountPath: /secrets/signing}
    {{- end }}
{{- end }}

{{- define "asu.volumes" -}}
- name: config
  configMap: {name: {{ .Release.Name }}-settings}
- name: tmp
  emptyDir: {}
- name: public
  emptyDir: {}
- name: files
  emptyDir: {medium: Memory}
{{- if .Values.filesSecret }}
- name: secret-files
  secret: {secretName: {{ .Values.filesSecret }}, defaultMode: 0440}
{{- end }}
{{- if and .signs .Values.signingFilesSecret }}
- name: signing-files
  secret: {secretName: {{ .Values.signingFilesSecret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "asu.mounts" -}}
- {name: config, mountPath: /etc/asu}
- {name: tmp, mountPath: /tmp}
- {name: files, mountPath: /run/asu, readOnly: true}
- {name: data, mountPath: /app/data}
# Where a build puts its files before they go to the bucket.
- {name: public, mountPath: /app/public}
{{- end }}
