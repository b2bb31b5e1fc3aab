#!/bin/sh
# Runs while a base image is built: installs /in/requirements.txt into the environment $1, at the versions that
# /in/constraints.txt and the file beside this one name. pip runs from its wheel and stays out of the image. With
# TORCH=cuda, torch comes from the index and not from the wheelhouse.
set -eu
[ ! -s /in/ca.crt ] || export PIP_CERT=/in/ca.crt
[ "${TORCH:-cpu}" = cuda ] || export PIP_FIND_LINKS=/in/wheelhouse
"$1/bin/python" "$(echo /in/wheelhouse/pip-*.whl)/pip" install --no-input --disable-pip-version-check --no-compile \
    --progress-bar off --cache-dir /var/cache/pip --requirement /in/requirements.txt \
    --constraint /in/constraints.txt --constraint /in/base/constraints.txt
# The tests of the largest packages: 0.2 GB that no stage imports. Then byte code, on all cores, which pip does on one.
cd "$1"/lib/python3*/site-packages
for package in matplotlib networkx numpy pandas scipy sklearn sympy; do
    [ ! -d "$package" ] || find "$package" -type d -name tests -prune -exec rm -r {} +
done
rm -rf torch/test
"$1/bin/python" -m compileall -q -j 0 . > /dev/null || echo "some files are no Python of this version: fine, pip thinks so, too"
