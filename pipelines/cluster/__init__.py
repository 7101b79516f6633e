"""The workflow on a cluster: Argo Server, Kubernetes, Onepanel."""
