"""How a scope changes in etcd: views are read, plans applied, windows finished, all under compares.

`reading` makes the view that a plan is made on, and past states from manifests and contents; `applying` commits a plan,
in one transaction or through an apply window, and finishes what a dead writer began; `writer` is what the rest of the
service calls; `janitor` is what happens without being asked. Nothing here knows HTTP.
"""
