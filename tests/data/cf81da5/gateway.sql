CREATE TABLE public.accounts (
    id character varying NOT NULL,
    last_turn bigint NOT NULL,
    next_at double precision DEFAULT 0 NOT NULL,
    refused character varying
);
CREATE TABLE public.api_key_uses (
    id character varying NOT NULL,
    digest character varying NOT NULL,
    process_id character varying NOT NULL,
    began_at double precision NOT NULL,
    ends_at double precision NOT NULL
);
CREATE TABLE public.api_keys (
    digest character varying NOT NULL,
    name character varying NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision,
    revoked_at double precision,
    per_minute integer,
    at_once integer
);
CREATE TABLE public.conversations (
    owner character varying NOT NULL,
    id character varying NOT NULL,
    model character varying NOT NULL,
    account_id character varying,
    upstream character varying,
    chat_id character varying,
    message_id character varying,
    system_digest character varying,
    turns integer NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    holder character varying NOT NULL,
    held_until double precision NOT NULL,
    process_id character varying DEFAULT ''::character varying NOT NULL
);
CREATE TABLE public.facts (
    name character varying NOT NULL,
    value text NOT NULL
);
CREATE TABLE public.kept (
    name character varying NOT NULL,
    value text NOT NULL,
    kept_at double precision NOT NULL
);
CREATE TABLE public.leases (
    id character varying NOT NULL,
    process_id character varying NOT NULL,
    account_id character varying NOT NULL,
    scope character varying NOT NULL,
    is_probe boolean NOT NULL,
    waited boolean NOT NULL,
    started_at double precision NOT NULL,
    ends_at double precision NOT NULL
);
CREATE TABLE public.line (
    id character varying NOT NULL,
    process_id character varying NOT NULL,
    owner character varying NOT NULL,
    scope character varying NOT NULL,
    accounts text NOT NULL,
    place bigint NOT NULL,
    joined_at double precision NOT NULL,
    ends_at double precision NOT NULL
);
CREATE TABLE public.litter (
    upstream character varying NOT NULL,
    chat_id character varying NOT NULL,
    account_id character varying NOT NULL,
    due_at double precision NOT NULL,
    tries integer NOT NULL
);
CREATE TABLE public.processes (
    id character varying NOT NULL,
    until double precision NOT NULL
);
CREATE TABLE public.recordings (
    id character varying NOT NULL,
    request character varying NOT NULL,
    process_id character varying NOT NULL,
    holder character varying NOT NULL,
    content text,
    begun_at double precision NOT NULL
);
CREATE TABLE public.rests (
    account_id character varying NOT NULL,
    scope character varying NOT NULL,
    until double precision NOT NULL,
    strikes integer NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL
);
CREATE TABLE public.tokens (
    account_id character varying NOT NULL,
    source character varying NOT NULL,
    version integer NOT NULL,
    access_token text,
    refresh_token text,
    expires_at double precision,
    trouble character varying,
    dead boolean NOT NULL,
    holder character varying NOT NULL,
    held_until double precision NOT NULL
);
CREATE TABLE public.transcripts (
    owner character varying NOT NULL,
    conversation_id character varying NOT NULL,
    turn integer NOT NULL,
    line integer NOT NULL,
    role character varying NOT NULL,
    text text NOT NULL
);
CREATE TABLE public.unrecognised (
    upstream character varying NOT NULL,
    kind character varying NOT NULL,
    times integer NOT NULL,
    last_seen_at double precision NOT NULL
);
INSERT INTO public.accounts (id, last_turn, next_at, refused) VALUES ('acc_56acf8771d19d302', 2, 1795644635.3236804, NULL);
INSERT INTO public.accounts (id, last_turn, next_at, refused) VALUES ('acc_1096343876ba4503', 22, 1795644637.3564274, NULL);
INSERT INTO public.accounts (id, last_turn, next_at, refused) VALUES ('acc_e15c2d8450a2fbbe', 24, 1795644654.0280514, NULL);
INSERT INTO public.api_key_uses (id, digest, process_id, began_at, ends_at) VALUES ('1c034c0eb10046f99e9ff6f03879dfcf', 'fa5739383fab4956255cd84032102641ef488de487871c58e99769d410a7e83b', '7c050be33983455b9481ee5800ee47cc', 1795644653.8288515, 0);
INSERT INTO public.api_key_uses (id, digest, process_id, began_at, ends_at) VALUES ('f07c16ad485b42d69a569151dc5caf69', 'fa5739383fab4956255cd84032102641ef488de487871c58e99769d410a7e83b', '7c050be33983455b9481ee5800ee47cc', 1795644654.004847, 0);
INSERT INTO public.api_keys (digest, name, created_at, expires_at, revoked_at, per_minute, at_once) VALUES ('fa5739383fab4956255cd84032102641ef488de487871c58e99769d410a7e83b', 'laptop', 1795644640.2357256, NULL, NULL, 600, 20);
INSERT INTO public.api_keys (digest, name, created_at, expires_at, revoked_at, per_minute, at_once) VALUES ('515f5556621c0cf265c6fa14c3e4d22bc2631205db21ed9cbf8c2a803b23480d', 'phone', 1795644644.5987976, NULL, 1795644649.9458115, NULL, NULL);
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'c1ec06283594d0a55f381ffbbcd052ff', 'k2', 'acc_1096343876ba4503', 'kimi_rest', 'dc3lpn2h6530kb0000m0', NULL, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644636.6326795, 1795644636.7908778, '119dbbe9cf8f4a328b4b3136b20bea7d', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-sse', 'k2', 'acc_1096343876ba4503', 'kimi_rest', 'dc3lpmqh6530kb0000a0', NULL, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644635.9313896, 1795644636.1052237, 'b4c708a1df8641308b9ddeda293ace15', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-connect', 'kimi-k2.6', 'acc_e15c2d8450a2fbbe', 'kimi_connect', '1a214c2b-c10b-801b-8000-0a000000001b', '1a214c2b-c85f-801f-8000-0a000000001f', 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644636.1185656, 1795644636.297156, '669c534b4602460db466d4c6b1a80043', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-sse', 'k2', 'acc_1096343876ba4503', 'kimi_rest', 'dc3lpn2h6530kb0000g0', NULL, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644636.35379, 1795644636.4799082, '30b3bc034d1f442294ea51f896285a41', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_fa5739383fab4956255cd84032102641', 'talk-laptop', 'k2', 'acc_e15c2d8450a2fbbe', 'kimi_rest', 'dc3lprah6530kb000160', NULL, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644653.891611, 1795644654.046272, 'f436e4c11a83475bad7f717ce510066e', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.conversations (owner, id, model, account_id, upstream, chat_id, message_id, system_digest, turns, created_at, updated_at, holder, held_until, process_id) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-connect', 'kimi-k2.6', 'acc_e15c2d8450a2fbbe', 'kimi_connect', '1a214c2b-d647-8027-8000-0a0000000027', '1a214c2b-db0b-802b-8000-0a000000002b', 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 2, 1795644636.4997292, 1795644636.5971372, '85c5016119114a958d37e29cffbca0c3', 0, '7c050be33983455b9481ee5800ee47cc');
INSERT INTO public.facts (name, value) VALUES ('vault_salt', '9409be654e38095bac3bee1202c1a43d');
INSERT INTO public.kept (name, value, kept_at) VALUES ('offers', '[{"key":"k2d6","scenario":"SCENARIO_K2D5","displayName":"K2.6 Instant","thinking":false,"kimiPlusId":"","agentMode":""},{"key":"k2d6-thinking","scenario":"SCENARIO_K2D5","displayName":"K2.6 Thinking","thinking":true,"kimiPlusId":"","agentMode":""},{"key":"k2d6-agent","scenario":"SCENARIO_OK_COMPUTER","displayName":"K2.6 Agent","thinking":false,"kimiPlusId":"ok-computer","agentMode":"TYPE_NORMAL"},{"key":"k2d6-agent-ultra","scenario":"SCENARIO_OK_COMPUTER","displayName":"K2.6 Agent Swarm","thinking":false,"kimiPlusId":"ok-computer","agentMode":"TYPE_ULTRA"}]', 1795644633.118714);
INSERT INTO public.litter (upstream, chat_id, account_id, due_at, tries) VALUES ('kimi_rest', 'dc3lpnah6530kb00012g', 'acc_e15c2d8450a2fbbe', 1795644697.3467717, 1);
INSERT INTO public.litter (upstream, chat_id, account_id, due_at, tries) VALUES ('kimi_connect', '1a214c2c-0b89-8049-8000-0a0000000049', 'acc_1096343876ba4503', 1795644697.4008317, 1);
INSERT INTO public.recordings (id, request, process_id, holder, content, begun_at) VALUES ('5df0b34cdbc6c2aacada56c23ffe6861bdb2aba5f1bbf555d646b55413574ccf', '2df1bbd93bed631aa527924bdbf3d695cf1555f13d4fe58f86d32b8f535bec90', '7c050be33983455b9481ee5800ee47cc', 'e19c08c6514a44fa93e9e7d4e62d1c93', 'gAAAAABrB1zdBGxcctv95u6FWUBtkNLbd4Q94YhWScNp659cQWQtnspgXIh64ZRCiNsRyWY_WUevwwHp3wSTkRjum7ywolTFm9gEshRap-ns_BmXneX8TSgRomodH2vbfNxyKkOrbAEupR1x6hCcCoY2dXAJBF8RcfCjGBFKDIUleuomGRHAICgazoRUoyv2BG9aU6aN5CVM_AUcLKwkb5VgXJzL7udDhZ_fNmuXeI-MoIRP2q4AFzY2lZWTwH-LkEAW9kVFjbuk7BIc9fC8WHTntYwumoJCxRatAgS12XWU0Ds1Kj0lKR1rALmfM2ddQsDJEayc23QkgRH8be86fgSCYCeCP8VWI8pgo_d7WeUtK56Us9xAv6Z_W5cnOrC_9vw6M1Mo8gHBof17tDGwnLs1MNF-kZcTGxxOADV0ThpYtQtTqnllgBlDOZt6zaS3a86OZh0iBVw1ysk1g9tTyMUzPsOzZObYDP7WW3FhE8ImY1U_GksoB4KqY9ueFaFu7xL9vd3i5j4XaSBsfKrgGD27-YsdrfVy1q2rjtgKRRShHhfS5WVlAfzKWqLb--8e_uKlM1ugPpIhe55exPV-0_t_-tO-x9eu6Q==', 1795644637.0030494);
INSERT INTO public.recordings (id, request, process_id, holder, content, begun_at) VALUES ('a3c488f6cf5ccc1f651a55b78d2032395ddac90dce477e4a1b2a05721e004413', '4f7f0f26edb8f4828b409e964cd59cb39ae13c8aec0bdb6fbe8cb2eabb0fc653', '7c050be33983455b9481ee5800ee47cc', '93fb2be158f34b8296d98537c60ea943', 'gAAAAABrB1zdvj5k9-xCN1NKy9dwLe-QyfhDudchk9MvByQpS-fmr50qSpPJDMEZI_zX4B4HFzev34c-f2Ug5ODyr8I49G2yGp9wJ6VmMvRa2lQTRCs_8N6oJp8zWa6npibjH-bxWK7MfAsAbpg49-YNprSq8PN4HjxiBhodQRvclXz0L7o6mBSSycAZu3iIcvF8SvEnetZpFIrUgqLCe6gdSCbdunbi_WJS2NPyItnpVP-X-zgeD0EB8mKNbidoMpSivuhz82KRLLWyhUU6MJGSjv_k1ys5vA==', 1795644637.0733001);
INSERT INTO public.recordings (id, request, process_id, holder, content, begun_at) VALUES ('1feecfbcf80fd956158a769e3077e268bbe97c9bd5facc1e53bf221749429a87', 'cea3b8afe72d3237f0ddb4f9f9b3c149895fc1f18fde2c7f215d2f9a2427b85c', '7c050be33983455b9481ee5800ee47cc', '200b57288ec543728798688b04f9d0bc', 'gAAAAABrB1zdjARV-S18FOYlj0JtJq3eAahnqLOeQwC6zGI0JIt8gvk4GygJnNsjPjirHMAE_0NgFqfULeNrDl08lnqmyhVmXOV-Id9F9NulctKi-JExVVXUIa95M50ZaiG5x5YS7ZaMqBSO7XOaFEJwEtzQjuZbtqC8yHYB9z-rUCZWjJhf0Cm4uyENuOuoyAMdkj_q9roSVSYXB6OfDaAYFgxsYzi5IgWoUjOCTSRxQMe8MZq2x_VP4e_9z35iXynvdhCurFgSSYdIT9wipYAPpa0IKHdYReCO1_S0mCyipl996XXHviC8ab8Eq4oa0spNl3npBWhcZ_VDiiV-T6yHj1EuRjEB0wfr0WTBZkTrRI7DRZsMuq4NJ8vJHbS942LSEEGdGRs6', 1795644637.1426227);
INSERT INTO public.rests (account_id, scope, until, strikes) VALUES ('acc_56acf8771d19d302', '', 1795733065.5269508, 1);
INSERT INTO public.schema_version (version) VALUES (1);
INSERT INTO public.schema_version (version) VALUES (2);
INSERT INTO public.schema_version (version) VALUES (3);
INSERT INTO public.schema_version (version) VALUES (4);
INSERT INTO public.schema_version (version) VALUES (5);
INSERT INTO public.tokens (account_id, source, version, access_token, refresh_token, expires_at, trouble, dead, holder, held_until) VALUES ('acc_e15c2d8450a2fbbe', 'a8d35a2b1cef850bda60ae0f0665bef02ac3951dd136b18c0ce4cde2f80e0b19', 2, 'fernet1:gAAAAABrB1zag_ABMGF1PoRYrGSmQurok0Nu_b_EsRdBG1-WrpMuhAFDCvNLb8NzGhEl2MVQ0It11KeLezWcNcpbkasx9gFW32pZBDBe9557H9CY6SKLftG9PvQjH3MrlHiMVML5tHJHl1PdcFi9bKj-Wt1s9xDaY6UEoUiKegxJFna76OqMq4BcRQDJB2VTxKYrVI6w_1pPVfFPSkeqsaSP95P0azQA2ODGdZ-A3UhtMRtjgIuOMGHT2s12weVRpSw_gBToxuhOqIo2Of026EwOK5l6OMoFlRSYHzgeYIFqOWk07nJEytQY0FgRuNrmYz0FX0Z9cCL8RoAyfZTCTyEU8wSXr140KMkPJncPJkHhnzeUn9Ugoakau0Ak7jo2hId2hsiRy33os58SGS2h2psfSCWZdtOL3_LSS1Q8HnRKeLk3c-kKz2iWtZ0wr39BBtIgIMZ1_8cAzY8oAtPCro4BbialeS6s85jE0iYVpM5H01c9rXJG9W1jw3hqITC63d5LtLYlTNgwxXycA0EN25qxJqGXceN9GnnsDEU2zXFYiu4UwrH_X2lCfAuCDRALBtOykfzcp4C8ghiv8Pqt_fx67Jpelu-QUJVRKm2E2dbDUl0dBk8Dcmya5oJWKPPnqp9_lT_iciDaztwVYXKXSacHtUWDwXU0P-vL79KWeHvSx4p_AfN6kg6QWfZ-WA6uOvs7HzRwrFE9BtcZcpHFjRhRvVGAQY_5-TZXI0UeEs5zvwqyrBuOqnFdJJDKCdyXQtqsL5Fu173Xo9DgBHfo97OWw4tfF7eUVbFwi4mKCrVA6Xwy86XxR5NPBlfhSVEvmhq6eOcmuhc-', 'fernet1:gAAAAABrB1zatNIjBDHoD0OICQ3JyIATiKJwJ3NXxcSne-yoR6qWhxiPtp67MYDbVlkIdY39Ds7lZr_p67I_v8ClFnXgnQp5vKAwLgagQi-khWvnuM1Uf_dJmxRJqrHfQd5cEFnzuAlCty4C7UAxtGsph9CpIDpcONSX4wq211vKjNr81nZ8ctIkLjzTBFjHVsIHYuJ9mJO9EcadyJnBXbZd3lga_9ziCziBFcDin5erZn0hZkoyYoptH51x2EMQdfQtP9nfRe77oL3cJNv446sc-R9qPdrEKKgOB9oyWyaneCrff9KWiJtZKSo8sN7XyDd7eNkVB8LiGmmhODoi3tXBKbkwz_QZWdvSD74_s7GhDYdzPMCq08sobB_3LIYX9QwjFcVFcw89wor9k3Fu1BXkCyVnp6EubXpFR5M0jacJaN_49luq-Fa_1DqPzqhZ041-ScXkcmQl8PqA4_bbaPQBJiYrKsoZvVHt0Oxj46Jf51GthPJYTavcp6u9PBitbpzxQdA-e_OxFkcmCQ0emL51c3K-wHzr4n-X96Q6-R6nfklq5M4i4JJVJY4R_r553lSejsclmbD-clp_dozwv0AjtigIqOvRvS974UHowg5FLOHWkW0bieDStwCZXd9O5oJbpOL2cQU7j2TmgqJlqKg9ldI7kj4TH2x50UKXi7_qOy9gV4xwwmxSb7_eoBv5Qd_W_AMu3Xgi3W3M6iLlLN6udmPUgmsDnID6Q7kf9wOJM0rjovEN9qQfZ3ka8tyz-_lycMIQlZ61U5wjth5z9q2mK4LhYfwN-6p3SLGSYrpblnWPrF5xg-FIUnAZOxk8pURt3JYcwZ0L', 1795644694, NULL, false, '3ccfa332fb924929922cc322f1f4bb9b', 0);
INSERT INTO public.tokens (account_id, source, version, access_token, refresh_token, expires_at, trouble, dead, holder, held_until) VALUES ('acc_1096343876ba4503', '2681dad2cfc752472adcf75739cecaa53146195f7655365d6c811ec53f87b832', 2, 'fernet1:gAAAAABrB1zawIb8-EMJsbiPV7jLiAFI4ZCy0oVNRB2mUyVBTDwMJVKvcsFAuAwukC2ekl1fkkJVwoveXKshik5TSaZd3wKl2lWRudkJgMehH5OTYrkqgJLgfmodBL2Xq5djIi5j_j2XTI3vfY5so_is5C784hC6iuGkaKGmVnsnpn_c5jEwfzANCa4zN6POT2YDVui2FbIc_KLF7af4W48gA7jD4Jpy5MolGe6ZeJjnpBrO3wNDht5Px55K1zBE7cyRABIl88YdiFaqw_F2_ColiD4zcFWIsqb9Wn86-HUdSmXDRaaZRQFEpPuNx17UViCqeaAEfXOvR-d88G6ULGKujPJl7BJfFe40oJVkuML8DHo9seFM9b_cPMp6aybua-hVSSEPj1EFdMqTAnjdHLN0jeP8ypSQmb0DM3KT6222NYsrTVUjOlQJM8Ft5mr04ckjL6EZpw7PohM7AZ-3E_c5U-cliT8bUVS2i3YzcZ-eejlveb3CNi-BOW_sG1Rx97VaGel3PwMm_xiSBZmbslhfqT3Pgw9OWY9N2XPPnrtJVqjJjWM0ZL5WGqdtQW1zlBYz-nvQ4tWcN7UNRYXHRNW1-gDCFvH6n16OMY8Ow_yTXvG8Za585JYwsijC6yahYxwf2ZH0PAT_sEYDpZ5Be03-J0u1CGKRzjjVGvh1_yzpVXmqKd1x-kBcNI_LDM5UEmRcABd73RkccUkXAFBMvpAsvIdFAYq23j1ij6w0PTZ2jRIkxysoN8wSC3AqYwqyNQVSTNxp2DBYpZn5_uMybGE3sTp1OTg_MEF1U4do50_nIA2n-TXwOqw=', 'fernet1:gAAAAABrB1za7IBCXn5dwSnpXvWPILWYLAt57PXPM5MIngI_1HW18saTTdfwS_7ny79NrEtz6aDInqUG-H8Rfgua3h_uuvzoaVs65Zcp5OgMJ4YK4_BuY_D1hrPWP2e9Gp42oLeomtC4480podx0PKbVyRlc6grD-4Ur25TNPrGmm9-AovVjB7buG1Wk4arO-foQTHKumvVWUEFUQJgY4mWh02w1hwOfdUvv7J-Fz4Ry1Q6CtuZ2WTXDjSy0v9b2L0qOBC8XUARSr9ka0gIB54mt0h1Si18NBdpaNrJs7A6VSpexmrdhNjArBvqnuCOphXGyMni4g2oTZxt4KHgnX7r3LIIf9Vy8W4bozSYoqjXTbQPFFPDtPWK1pCDTq4otOd7YxHqQxItWmh3-wTBt-t9rJQkKDJOREPgkx8-DI_TFGUvk1jazcJrl7mHscPqDBjKtz0ZHnbxizdPnSHrPJI4r6ZmSq4HO_Y96bmGPMYuf-kbXE0FQcybV03ZR1nCKbpSwZCoKvI8ghW_l397Ne2K9IvfdN0THr6sJZB_GiIMsc9P76qmN2HYoLFSXoQ_QORmNfg8dX95_edoDqljGpb0cwILl9qnPthZV_61GZvw3r154aqLQv8j14LiIPfHuPzTZdv4TC9FoQL-w0_jWivduYDZ82Fo98holohfx9J69zN9IwATCWiIfqNb24rgV8DgkW0alA5Vn80c0IVTOaOPQ0PboPkYmIG0hZxQES2MvPeLHNmeKNnqeWu2AoE8wQwDuEZnfFioPIT_08w-SjIQPvm86XFWCZHfYrKh01pwl-f1So2GwUvpku5p7Ao3w8JpHGF8UnjVo', 1795644694, NULL, false, 'bd6a50f829ac4f43b69d661f340c464f', 0);
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-sse', 0, 0, 'user', 'fernet1:gAAAAABrB1zclXk2pctWzCDJPNz0AiiRxlu9WAf5P3d-ci2YkBQms4RjaxU_Ix6pgeTGdtiUJPLv3LSKrZYhf_vvmONIFVmy0dftQonIgedA4619Ol1aGEpBmFFMFULFj55CT9kD_Sz1a3dh91eFfTZe3N60uu6vNg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-sse', 0, 1, 'assistant', 'fernet1:gAAAAABrB1zc5EhVpY9EDDKarpS6RtVZIfmXIAR8EaV_56zAA4iba-4ZXgLRBWvtsi1Oc0iNB3zJ8V3bsbG4yQ6H9ZbTAbSlKeBCkUBqMpu5lauyIrF4rcoHf8eGHUDwojJvJaSsN96vz5I2suNCC6gOaVg-KEvbL6JRXUhaDha4W4UvfAcbE9rN8lVKnLMK-wwkS6UfiBBxmROS2b1r-M4c0IvfVhZXTg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-sse', 1, 0, 'user', 'fernet1:gAAAAABrB1zc4kI_leU1HdJ0Sy6WFSBj2yY3ZU9m7mPGVCAg1SFE4rt5JR-kluTe4x268FDGRiLzU85e0-7z2nBVa4LQm8OV-_OyzzWWCYs7hP-ozdtwAlc_OM4kJC9ob4QFOnKENWqQiNCQApgOJgTNHj1oM11LnA==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-sse', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zcYkAs2WlE9D3e64t_pQoEmAFN8h6MZWmr6Znn3BUBCQt2EjhfNJ42QnbZhtulJgASom8_5HidHR41GeYWOf8sUaWPx7Z2LAOlFoVZcRcKk_R4nbtye7kOMwT05Ipj4u5WHcjh54CoQcQJ-uQyLC61QQqCBTtg0ZiI4pRnoJq225TdeL4CAIP8qlzotJB2zw5HSX88iP44uWeEwvKlb2Nkew==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-connect', 0, 0, 'user', 'fernet1:gAAAAABrB1zcF9a3JY1Cn7CqCZWOChuOopnGPpMveNO_S1fY-CCRgx_ie9bxQmBGv9XoOqoIDuNmhHhBJVACeT5FDYhAcUnavZPfpr4kb3gat-JanvAyxoGJHnGiwLe4OuhLGIyi_iqkhohJoyGYnq-NotbJp4iIUg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-connect', 0, 1, 'assistant', 'fernet1:gAAAAABrB1zcleb1jERHPmNMEmwk2qyBLw8lN0Nf7KNyo70ZvBgryPwYvz7cdT9w8JtieWpPCLoYp3fTiP0bp5E85Bjz1-5gkZxLcmHH_j5Tdca2tYPhD7sYLguOX5Md6bxRxlT8K6u-ul95veX-rBGOXSMq12F-BmHl7CfaLEkFpeuMo1ZQ_LmNx1dKoBq4JPWVohEB2kqmstSfjSMQ4lpZpdzNik5OIA==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-connect', 1, 0, 'user', 'fernet1:gAAAAABrB1zc1ElDWGE_cG_0Iuz0kF8lgKPaRdGro3y6IDzYU9w2V1Gxc9Yi6Ya_hibAVq2CTmyafP9z_hmy83sm3Nat47hTchNFjeExbplD9Nt9K3nTxSBgaMvxjlMWLhlUWuKG2keoVujpTqZn_1AW7exXsetb7w==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'talk-connect', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zcW05GE06QMLH0enh7mgbbVr28NAN8FuKBDxNWy36U3ue1vSc2sDmH1RdNz066JElYWPjbtHvnbYWWZxnqR-CkIi_yRAiVUc-Nh8sHu5bMzDbRVR7lvZHJUfv5KGz8aeWuVxJkWjYEjPtSAVA4ohKBODSW3flR9WACSN0b1Q0ETi56noFmvcgLAlWtgTvgHnNUpCoynE7ehPvG0SzKtjX37A==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-sse', 0, 0, 'user', 'fernet1:gAAAAABrB1zc-NYugNrybJZ0vJH0e1mwLo67qpzc_nmXixOAo0AO9vCW_Ae2VFUaryLYf4MTTeubQwuArPHE0Mng3L57nPQUHK8v_d_gQw-WWtWU6BfzkOUlpNTmirLzwONsjrCbqYCViijOPkYYPdZ96eg0fJR7wQ==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-sse', 0, 1, 'assistant', 'fernet1:gAAAAABrB1zcZGyRJXjYzJVxCisa4BviYP1ewWFJNBM8jq9gjqEZwxFTUtgZfscHMvpHjUWB7TLk2ejAuNTdrVsBf965x85WpfFqdjcqx9R79geqc4rZSkp3Moa2N7FXeVKc4fJY23QMqqEarYkvsCh6nR55m-_WwQdRQ3Gi5t8b-4n3LeNAJ0dpxsgHJYA0USw6A2EM9ZVj1aCNIypWB5FxQ6h7qHW7IQ==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-sse', 1, 0, 'user', 'fernet1:gAAAAABrB1zcfhF_FJxKI_y7cpcTvZHXUnZ6TbcqrPKBXC7V1bt72AA_efosk7ASdRfuvHiZgtQfuBEj4kixJDVKoZdxYYpTRIP1jZPmSmZOjSH38Vz-ZvxORdKEQwbCBFLSpE4gxbEZOT_kpHZ97-zIVUgvPGRW7A==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-sse', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zclDLW3TZ0U1sSsE8W8ZXgiR27Ejl3KH0pQUKEW-BBvvbPofEPH5S3R7RJRiv6sYsKl6ieqqFintWlwnhDyS2Nqupuk3f_O0NssiTL-iPDIPDYaSrBmx7Ua7G81VHmlmLqgAgs2ry7kmmkz7f7ZA3KuhQwMKstjA7scu-xvFpTxYQ05Qp1ddOiMxh_9_UmugJFyxNs5nCeBTX9iGyEjjAsAg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-connect', 0, 0, 'user', 'fernet1:gAAAAABrB1zcsgO2x8I8tbyE0ex-PD0qQaBsfUd9WBSBdjm8fj440OrhCMjrbNQFzTUswk0WLRnXWX8ibysTJwUWdCbJH_9mvMej0_MJcvhB8TrTl8XFw43xQmKv_O1sLOmLU2ga-fCcbjFPv9YhrFv4-RHnTbiQlA==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-connect', 0, 1, 'assistant', 'fernet1:gAAAAABrB1zct3-a2PfX1iGX3eDnxCUjn7ZUQTz9iRLKT2oFhtLUMg_S4eQ7ONLEBV7U6h2GR92MVvn3CfzT5QXjlCaYvpA1SSJmDALe0n8MEmjXw3bwAugJvIQMoBu7EiXifLYyGT-_87nv5v9TzkiI11Dxe7DBrs6ONuTmbQZK0Bxt0ZztO0GroKv9XoDyBkT2blu6CA_vPKRpIrT7xW5gRASHOPSyNg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-connect', 1, 0, 'user', 'fernet1:gAAAAABrB1zcgn67Ff7U4eS6AY8iFPrU-ow_JH3_0CRjhRQq6gROF_UWSS0xezzD1SECdHJFkVtf8oQM-7mYYEnVlbajFwwt1fcaAj6rYsDzfijY-u7sFd3a0TCXCdFqyQ_iApLNam5hA-XRyV2ot_2Pk_YxoL7JbQ==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'lost-connect', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zcfghoYU8VnfpcrVUuzAM2kN-U4aEfURedg96SU5GzS7oLfDGvv5XhyNhctUmrAEjIMaGW8XuPjx0dawYyIMQa7jXcsZsspqJRYrHTZO-RtQcOUAI67E7K5yG6RqF6uPg3SqFGnQr1mv5eVqQgUhDOnLxWbJFIWnpDSRJIJXvsn4pReE26ivV91iP4bHGkLXM3iHIm3BILQgsmE0RSIjMxsg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'c1ec06283594d0a55f381ffbbcd052ff', 0, 0, 'user', 'fernet1:gAAAAABrB1zcmvnALgfOU1OGszYR2dTWWSvG0zgoboBT2Jx6DfmKg6sT5AQp4V5EnS4CyNF28KuV0Fa1R75Qj4U2FYypA-DKWlxP6gl0dpI6eJ1KVZ9iKvU_p-zF5XYwbOx5VmhPbBpaheHn3qaNRktVn-jDik5bjA==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'c1ec06283594d0a55f381ffbbcd052ff', 0, 1, 'assistant', 'fernet1:gAAAAABrB1zc8eKrtqDWwGllHX08mtpWaEVB-w7BoZqiOgsup8g-X5EeTCd6JYSyt1iwRlnd2xPObYh9OAo4GAChTNDBBtXmlnSdqtqZYZ0Isn4SUxatT-pxJuzM-GakfrMMeWqTonsSpG7boJfyG4Es_68x5do8whL9IupyTKgaGf1x9GLh-euL4duX6yQ6ZeBYIm1EPLTJx0atyG2qZmsEvbjnvwP3RA==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'c1ec06283594d0a55f381ffbbcd052ff', 1, 0, 'user', 'fernet1:gAAAAABrB1zcxuOxkrUfkeG1W_wVetRDRQHXuIIq5nDtlh4JIRhIlVpJqNzXBEobejpCdpGgk2q9WL0btjJsooV3HDabx9VtLZerrJnhRl4PZFo18zNbpwrOGTAfeFu80hzzNshM01NXTdsyaMCGy40P1XpX5Dy-1w==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_2eca02b0396d23d572b0c11beacda105', 'c1ec06283594d0a55f381ffbbcd052ff', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zcQbSkU4r528xpqjND_4zClI7aDsp8SdCRfbzecVoCyqDUWziWb0w1tl3cAK6RDuTEDQZzCbpPh6ookheFZniSk16hFOiUD9fd_CBxLPcdQ0XCGBoyh8IS9tUcmLhCRIJtmjhKkM8sgDq9lMHNtzabvKJsXnAyHI4nzsc1UdNXL7RdnFNgvivtHPw-hOoDH5EGfs0jsaD4p-3JtDmQhcJ_XQ==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_fa5739383fab4956255cd84032102641', 'talk-laptop', 0, 0, 'user', 'fernet1:gAAAAABrB1ztvus18twkxDo5qXiXpfYggvx83TxZQ-Ly5dbabJQ0kEnRQDTFDST9luEUkCqtKVl5WDUbvqJ3dBFjVys4Vv6qH2cSV9K7x0T28BZreHFs-mJrAr5HhM5OSiX6gBuak1j95--D_jQWPq9kQWfwFFHSyg==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_fa5739383fab4956255cd84032102641', 'talk-laptop', 0, 1, 'assistant', 'fernet1:gAAAAABrB1ztUFikgSw_YrBsVFXzsn-STr7nvf65yRRjLIncJcCDCq7-Or0NizVb8woZHyglQKZjaOt4ixcciQIIKnrGCpZuP1JyVwvphu28dWwdbphancF5c4EfV337Uh4TyS36NSQoHKnaSN-d9ORzWtdX4lmR4ZZUuezl9Lg_Vxp3d3-wOCIJHb7_wjDtOofcXhjAEj3nKxzYiUAbIvsb8iv3E-5gnw==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_fa5739383fab4956255cd84032102641', 'talk-laptop', 1, 0, 'user', 'fernet1:gAAAAABrB1zumVseWXdYVj1tbb9O_FdJZKJpYZ0eX6oCgzUDVrp449SpkWMxNyQVSQdqXIuuPW3hv42v0T20Alh_XfKoH8AOPd-_aweIzAco6FeiEGd38UtbJq9UBs0yYwywXhplzJusxwAeZoKqUmZ6s4B0aMYjiQ==');
INSERT INTO public.transcripts (owner, conversation_id, turn, line, role, text) VALUES ('key_fa5739383fab4956255cd84032102641', 'talk-laptop', 1, 1, 'assistant', 'fernet1:gAAAAABrB1zu3NOuSdOlRUQhtweCs-w8uwMLhp5Ohszz34_cuUrBVwpmbE7Q9YmA0cX1Ebrg1fN4_ZWli4tgkx5jtTHbtXiJ3D5yYF_ZUMQJR_jC9I-drEkCtlrI-f37vVWnDd-aNQLlJlTGh1yyLrZ5vdvblacDl6H_NghDEIFby66qGuh0eCh01wRt6kKvygsqLUc71v_tZmzY9UDCF2FP4_ZJU_ofUQ==');
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_rest', 'event None', 1, 1795644636.8873165);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_rest', 'event loading', 1, 1795644636.9227061);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_rest', 'event tool_call_status', 1, 1795644636.9280941);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_rest', 'event zone_set', 1, 1795644636.9358418);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_connect', 'frame telemetry', 1, 1795644636.956754);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_connect', 'mask block.canvas', 1, 1795644636.9696805);
INSERT INTO public.unrecognised (upstream, kind, times, last_seen_at) VALUES ('kimi_connect', 'op merge', 1, 1795644636.9766786);
ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.api_key_uses
    ADD CONSTRAINT api_key_uses_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (owner, id);
ALTER TABLE ONLY public.facts
    ADD CONSTRAINT facts_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.kept
    ADD CONSTRAINT kept_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.line
    ADD CONSTRAINT line_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.litter
    ADD CONSTRAINT litter_pkey PRIMARY KEY (upstream, chat_id);
ALTER TABLE ONLY public.processes
    ADD CONSTRAINT processes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.recordings
    ADD CONSTRAINT recordings_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.rests
    ADD CONSTRAINT rests_pkey PRIMARY KEY (account_id, scope);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_pkey PRIMARY KEY (account_id);
ALTER TABLE ONLY public.transcripts
    ADD CONSTRAINT transcripts_pkey PRIMARY KEY (owner, conversation_id, turn, line);
ALTER TABLE ONLY public.unrecognised
    ADD CONSTRAINT unrecognised_pkey PRIMARY KEY (upstream, kind);
CREATE INDEX api_key_uses_of_a_key ON public.api_key_uses USING btree (digest, began_at);
CREATE INDEX conversations_by_age ON public.conversations USING btree (updated_at);
CREATE INDEX recordings_by_age ON public.recordings USING btree (begun_at);
