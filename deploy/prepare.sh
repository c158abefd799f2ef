#!/bin/sh
# What docker-compose.yml needs once: topics, schemas, a simulated CRM with a year of changes,
# a model that is trained on it, and the outbox.
# Existing parts stay as they are, so it may run again. With a CRM of your own, train on that.
set -eu
key=$LEADSTREAM_MODEL_SIGNING_KEY
models=${MODEL_STORE%/*}

leadstream topics create
leadstream schemas register
if [ ! -e "$models/crm" ]; then
    leadstream simulate --database --rate 0
    touch "$models/crm"
fi
[ -e "$key" ] || leadstream models keygen
[ -e "$LEADSTREAM_MODEL_VERIFY_KEYS" ] || cp "$key.pub" "$LEADSTREAM_MODEL_VERIFY_KEYS"
if ! leadstream models show champion >/dev/null 2>&1; then
    leadstream train --postgres --horizon 30 --recipe audited --promote
fi
leadstream db migrate
if [ -e /roles.py ]; then
    python /roles.py
fi
