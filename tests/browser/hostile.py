"""Texts that mean harm, as a model or a labeler may write them."""

from __future__ import annotations

SCRIPT = "<script>window.stolen = document.cookie</script><b>bold</b>"
HANDLER = '<img src=x onerror="window.stolen = 1"><svg onload="window.stolen = 1"></svg>'
REMOTE = "![](https://evil.example/pixel.png) <img src='https://evil.example/pixel.png'>"
LINK = (
    "[a prize](https://evil.example/) <a href='javascript:alert(1)'>click</a> https://evil.example"
)
TEMPLATE = "${window.stolen = 1} {{#each value}}{{this}}{{/each}} </textarea></script>"
OVERRIDE = "Pay to \u202eknab live\u202c now \u2066isolated\u2067 \u2069\u2069\u2069 done"
ENDLESS = "x" * 100_000
HOSTILE = [SCRIPT, HANDLER, REMOTE, LINK, TEMPLATE, OVERRIDE, ENDLESS]
