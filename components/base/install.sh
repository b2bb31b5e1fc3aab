#!/bin/sh
# Runs while a base image is built: installs /in/requirements.txt into the environment $1, at the versions that
# /in/constraints.txt and the file beside this one name. pip runs from its wheel and stays out of the image. With
# TORCH=cuda, torch comes from the index and not from the wheelhouse.
set -eu
[ ! -s /in/ca.crt ] || export PIP_CERT=/in/ca.crt
[ "${TORCH:-cpu}" = cuda ] || export PIP_FIND_LINKS=/in/wheelhouse
exec "$1/bin/python" "$(echo /in/wheelhouse/pip-*.whl)/pip" install --no-input --disable-pip-version-check \
    --progress-bar off --cache-dir /var/cache/pip --requirement /in/requirements.txt \
    --constraint /in/constraints.txt --constraint /in/base/constraints.txt
