"""The known world: pages whose every fact and every flaw is known, so each stage can be held against truth."""
