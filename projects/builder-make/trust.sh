# Read by every bash that runs a script (BASH_ENV). LOCAL_CA_CERTIFICATE, a certificate in PEM or the path of one, is trusted by
# what the script starts: git, curl, pipegen, BuildKit and what else goes by the usual variables.
if [ -n "${LOCAL_CA_CERTIFICATE-}" ] && [ -z "${LOCAL_CA_BUNDLE-}" ]; then
  LOCAL_CA_BUNDLE=$(mktemp) || exit 1
  for system in "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s "$system" ]; then
      cat "$system" > "$LOCAL_CA_BUNDLE"
      break
    fi
  done
  case $LOCAL_CA_CERTIFICATE in
  *-----BEGIN*) printf '\n%s\n' "$LOCAL_CA_CERTIFICATE" >> "$LOCAL_CA_BUNDLE" ;;
  *) { echo; cat "$LOCAL_CA_CERTIFICATE"; } >> "$LOCAL_CA_BUNDLE" || exit 1 ;;
  esac
  export LOCAL_CA_BUNDLE SSL_CERT_FILE="$LOCAL_CA_BUNDLE" GIT_SSL_CAINFO="$LOCAL_CA_BUNDLE" CURL_CA_BUNDLE="$LOCAL_CA_BUNDLE" \
    REQUESTS_CA_BUNDLE="$LOCAL_CA_BUNDLE" NODE_EXTRA_CA_CERTS="$LOCAL_CA_BUNDLE"
fi
