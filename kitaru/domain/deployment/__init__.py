"""The rules of deployments: versions of a flow, and the tags that lead to them."""
