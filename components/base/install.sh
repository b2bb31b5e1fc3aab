#!/bin/sh
# Runs while a base image is built: installs /in/requirements.txt into /opt/venv, at the versions of both constraints.txt.
# pip runs from its wheel and stays out of the image. TORCH=cuda takes torch from the index, not from the wheelhouse.
set -eu
[ ! -s /in/ca.crt ] || export PIP_CERT=/in/ca.crt
[ "${TORCH:-cpu}" = cuda ] || export PIP_FIND_LINKS=/in/wheelhouse
exec /opt/venv/bin/python "$(echo /in/wheelhouse/pip-*.whl)/pip" install --no-input --disable-pip-version-check \
    --progress-bar off --cache-dir /var/cache/pip --constraint /in/constraints.txt --constraint /in/base/constraints.txt \
    --requirement /in/requirements.txt
