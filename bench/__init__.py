"""`make bench`: what this service does beside its references, measured here and now.

`stats` and `results` are pure: what a round's figures come to, and whether a goal is met. `harness` runs subjects in
turn, `processes`, `store` and `references` start what is measured, `load` holds the programs that make load (processes
of their own, on another core than the service), `rows` one module per group of rows. Nothing here is imported by the
service, the client, or their tests.
"""
