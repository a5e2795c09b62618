# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""NVRTC, for which what it warns of is an error."""

import re

from jaxinfer import jit

# Division by a page size of 0, in code that contiguous keys never reach.
KNOWN_WARNINGS = {"#39-D", "#179-D"}


# What ptxas says, not even as a warning, where products of a warpgroup wait for each
# other: right results, at a fraction of the speed.
SERIALISED = re.compile(r"\(C751\d\)")


class WithoutWarnings(jit.Nvrtc):
    """Takes a warning for an error, and products that are serialised."""

    def compile(self, source, name, headers, options):
        compiled = super().compile(source, name, headers, options)
        warnings = set(re.findall(r"warning (\S+):", compiled.log))
        assert warnings <= KNOWN_WARNINGS, compiled.log
        assert not SERIALISED.search(compiled.log), compiled.log
        return compiled
