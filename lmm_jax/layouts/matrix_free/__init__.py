"""Crossed factors without a core: solves by conjugate gradients, traces by fixed probes."""
