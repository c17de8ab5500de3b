# make demo    find the nuclei in 16 microscope images, write demo-out/report.html
# make test    run the test suite
# make check   formatting, lint, types, tests
# make bench   run the benchmarks, results in bench/results/
# make docs    build the documentation, site/index.html
# make format  put the code into the project's format
#
# Each first sets up what it needs in .venv: no root, nothing but the package index, with your own pip configuration.
# What may be given:
#
#   PYTHON=python3.12       interpreter for .venv (default: the first usable of python3.12, python3.11, python3)
#   EXTRAS=gpu,s3,geo,dev   what is installed with rayseg (default: cpu,s3,geo,dev); the same with each call
#   WORKERS=4               test processes (default: 2)
#   TESTS='-m "not slow"'   further arguments for pytest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help demo test check lint format bench docs

EXTRAS ?= cpu,s3,geo,dev
WORKERS ?= 2
PYTHON ?=
TESTS ?=

comma := ,
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(subst $(comma),-,$(EXTRAS))
OUT := demo-out
SQL := SELECT parse_filename(uri)[:12] AS image, count(*) AS nuclei, round(avg(area_px)) AS mean_area_px \
  FROM '$(OUT)/objects/*.parquet' GROUP BY image ORDER BY nuclei DESC LIMIT 5

# Where set-up puts a stand-in for libgomp.so.1 if the machine has none; usually it does not exist.
OPENMP := $(VENV)/openmp
export LD_LIBRARY_PATH := $(CURDIR)/$(OPENMP)$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

demo: $(READY)
	@$(BIN)/rayseg segment 'demo/images/*.png' $(OUT) --model demo/model --no-report
	$(BIN)/rayseg report $(OUT)
	$(BIN)/python -c "import duckdb; duckdb.sql(\"$(SQL)\").show()"
	cat <<-END

	The masks, drawn on the images:  file://$(CURDIR)/$(OUT)/report.html
	The table above, in Python:      import duckdb; duckdb.sql("$(SQL)")
	Every image exactly once:        $(BIN)/rayseg verify $(OUT)
	END

# One thread for each library: the test processes share the cores between them.
test: $(READY)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

check: lint test

lint: $(READY)
	@$(BIN)/python -m ruff format --check . || { echo 'make: run `make format` to mend this' >&2; exit 1; }
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: $(READY)
	@$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(READY)
	@mkdir -p bench/results
	for script in bench/[!_]*.py; do
	  echo "== $$script"
	  $(BIN)/python "$$script" --out "bench/results/$$(basename "$$script" .py).json"
	done

docs: $(READY)
	@$(BIN)/python -c 'import mkdocs, mkdocstrings' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS),docs]'
	$(BIN)/python -m mkdocs build --strict --quiet
	echo "file://$(CURDIR)/site/index.html"

# The stamp is touched last, so that an interrupted set-up is taken up again. An interpreter is tried, not only looked for: some
# that are found do not run, and Debian's cannot make a virtual environment without python3-venv.
$(READY): pyproject.toml Makefile
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
	  right='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
	  python='' found=''
	  for name in $(or $(PYTHON),python3.12 python3.11 python3); do
	    "$$name" -c "$$right" 2>/dev/null || continue
	    found=$$name
	    if "$$name" -c 'import ensurepip, venv' 2>/dev/null; then python=$$name; break; fi
	  done
	  if [ -z "$$found" ]; then
	    echo 'make: no $(or $(PYTHON),python3.12$(comma) python3.11 or python3) here that is Python 3.11 or 3.12.' \
	      'Install one, or say where it is: make PYTHON=/path/to/python3.12' >&2
	    exit 1
	  elif [ -z "$$python" ]; then
	    echo "make: $$found cannot make a virtual environment. On Debian: sudo apt-get install python3-venv" >&2
	    exit 1
	  fi
	  echo "make: making $(VENV) with $$("$$python" --version)"
	  "$$python" -m venv --clear $(VENV)
	fi
	echo 'make: installing rayseg[$(EXTRAS)] into $(VENV); the first time this downloads about 700 MB'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	if ! $(BIN)/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; then
	  # Paddle wants GNU's OpenMP run-time library and ships Intel's, which speaks GNU's interface as well.
	  echo 'make: this machine has no libgomp.so.1; inside make, the libiomp5.so of Paddle stands in.' \
	    'To run rayseg without make: sudo apt-get install libgomp1'
	  mkdir -p $(OPENMP)
	  ln -sf "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/paddle/libs/libiomp5.so" \
	    $(OPENMP)/libgomp.so.1
	fi
	$(BIN)/python -W ignore -c 'import cv2, paddle, ray'
	touch $@
