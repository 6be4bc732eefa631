# Everything that a machine without ROS needs: `make demo` and `make test` set up what they use.
# docs/installation.md tells what happens, and the other road, inside a ROS 2 distribution.

POSE_ESTIMATOR_VENV ?= $(CURDIR)/.venv
VENV := $(abspath $(POSE_ESTIMATOR_VENV))

# The wheels and a sourced ROS distribution do not mix: nothing of such a shell reaches the recipes.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport LD_LIBRARY_PATH RMW_IMPLEMENTATION ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE

# The package is not installed: several checkouts may share one environment.
RUN = PATH="$(VENV)/bin:$$PATH" PYTHONPATH="$(CURDIR)" "$(VENV)/bin/python"

# Photographs with true poses, lmo_dev and lm_cat in BOP's layout, for what measures on them.
DATA ?= $(or $(POSE_ESTIMATOR_DATA),../shared/data)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast bench accuracy faults soak train-lmo clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F '|' '{ printf "make %-10s  %s\n", $$1, $$2 }'

setup:  ## make the virtual environment (.venv, or $POSE_ESTIMATOR_VENV); a second run is instant
	@fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	for python in "$$PYTHON" python3 python3.11 python3.12 python3.13; do \
	  if "$$python" -c "$$fits" 2> /dev/null; then \
	    exec "$$python" requirements/install.py "$(VENV)"; \
	  fi; \
	done; \
	echo 'error: no Python 3.11 to 3.13 on the PATH: set PYTHON=/path/to/python3.11, or use the' \
	  'package inside a ROS 2 distribution instead: docs/installation.md' >&2; \
	exit 2

demo: setup  ## a virtual camera, both nodes and the poses they find, in about a minute
	@$(RUN) -m pose_estimator demo

test: setup  ## all tests
	@$(RUN) -m pytest

test-fast: setup  ## the tests that take seconds
	@$(RUN) -m pytest -m 'not slow'

bench: setup  ## timings on this machine: virtual data, pose stage, segmenter
	@$(RUN) -m pose_estimator bench

accuracy: setup  ## poses on photographs: the shipped models on DATA, into docs/accuracy.md
	@$(RUN) -m pose_estimator accuracy \
	  "LM-O=$(DATA)/lmo_dev=$(DATA)/lmo_dev/mask_rcnn_detections.json" "cat=$(DATA)/lm_cat" \
	  --peer "peer: stacked hourglass, photoreal training" \
	  "$(DATA)/lmo_dev/peer_stacked_hourglass.csv" --output docs/accuracy.md --pictures \
	  "Photographs: LM-O (Brachmann et al., ECCV 2014), BOP (Hodan et al.), CC BY-SA 4.0."

faults: setup  ## faults injected into running nodes, in long form, into docs/reliability.md
	@$(RUN) test/reliability.py docs/reliability.md

soak: setup  ## 20,000 images through both nodes: does anything grow? into docs/soak.md
	@$(RUN) test/soak.py 20000 docs/soak.md

train-lmo: setup  ## train the six models of LM-O anew from the meshes in DATA, into out/lmo
	@set -e; for number in 8 6 1 5 10 12; do \
	  $(RUN) -m pose_estimator train --unit mm --output out/lmo \
	    --mesh "$(DATA)/lmo_dev/models/$$(printf obj_%06d.ply $$number)"; \
	done

clean:  ## remove the virtual environment and what tools left behind
	rm -rf "$(CURDIR)/.venv" build install log .pytest_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
