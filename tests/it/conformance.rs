//! Which test shows which case of docs/conformance.md. The list is held against the tests that there are: a test that is
//! renamed, removed, or says nothing of its case any more makes it fail, and so does a case of the document that is not
//! listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const SHOWN: &[(&str, &[&str])] = &[
    ("G1", &["code::a16_a17_s2_t9_the_whole_way", "introspection::in1_in2_in5_in11_what_is_answered"]),
    ("G2", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("G3", &["token_endpoint::g3_to_g7_t2_t3_the_form", "code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("G4", &["token_endpoint::g3_to_g7_t2_t3_the_form"]),
    (
        "G5",
        &[
            "token_endpoint::g3_to_g7_t2_t3_the_form",
            "assertions::ca14_ca15_ca20_what_goes_with_an_assertion",
            "assertions::s4_1_a_machine_acts_for_itself",
            "code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code",
        ],
    ),
    (
        "G6",
        &[
            "token_endpoint::g3_to_g7_t2_t3_the_form",
            "assertions::ca14_ca15_ca20_what_goes_with_an_assertion",
            "code::a1_a23_a24_how_it_may_be_asked",
            "introspection::in1_in2_in5_in11_what_is_answered",
        ],
    ),
    ("G7", &["token_endpoint::g3_to_g7_t2_t3_the_form", "code::a2_a3_a25_what_cannot_be_redirected"]),
    ("G8", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    ("G9", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    (
        "G10",
        &[
            "assertions::ca16_to_ca19_assertions",
            "introspection::in1_in2_in5_in11_what_is_answered",
            "revocation::rv1_rv3_rv5_rv6_what_is_answered",
        ],
    ),
    ("G11", &["token_endpoint::t1_g11_methods"]),
    ("G12", &["token_endpoint::g12_t10_bodies_that_are_too_long_and_connections_after_errors"]),
    (
        "G13",
        &[
            "login::g13_no_page_in_the_clear",
            "token_endpoint::g13_cleartext_is_refused_where_clients_come_over_a_network",
            "login::l2_cookies_over_https",
        ],
    ),
    ("G14", &["revocation::rv10_public_clients_and_scripts"]),
    ("G15", &["guessing::p3_p9_failures_behind_a_client_only_delay"]),
    (
        "G16",
        &[
            "code::g16_nothing_that_opens_doors_is_stored",
            "code::a16_a17_s2_t9_the_whole_way",
            "token_endpoint::r1_to_r4_refresh",
        ],
    ),
    (
        "G17",
        &[
            "guessing::g17_p12_what_was_tried_is_not_logged",
            "login::g17_pages_know_their_place",
            "code::a16_a17_s2_t9_the_whole_way",
            "introspection::in1_in2_in5_in11_what_is_answered",
        ],
    ),
    ("CA1", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA2", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA3", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA4", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    (
        "CA5",
        &[
            "guessing::ca5_p3_l3_wrong_unknown_disabled_and_locked_are_one",
            "token_endpoint::ca1_to_ca14_client_authentication",
            "token_endpoint::ca5_p3_failures_cannot_be_told_apart",
            "assertions::ca16_to_ca19_assertions",
        ],
    ),
    ("CA6", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    (
        "CA7",
        &[
            "token_endpoint::ca1_to_ca14_client_authentication",
            "assertions::ca14_ca15_ca20_what_goes_with_an_assertion",
        ],
    ),
    ("CA8", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA9", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA10", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA11", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA12", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    ("CA13", &["token_endpoint::ca1_to_ca14_client_authentication"]),
    (
        "CA14",
        &[
            "assertions::ca14_ca15_ca20_what_goes_with_an_assertion",
            "token_endpoint::ca1_to_ca14_client_authentication",
        ],
    ),
    (
        "CA15",
        &[
            "assertions::ca14_ca15_ca20_what_goes_with_an_assertion",
            "token_endpoint::ca1_to_ca14_client_authentication",
        ],
    ),
    ("CA16", &["assertions::ca16_t12_an_assertion_is_good_once", "assertions::ca16_to_ca19_assertions"]),
    ("CA17", &["assertions::ca16_to_ca19_assertions"]),
    ("CA18", &["assertions::ca16_to_ca19_assertions"]),
    ("CA19", &["assertions::ca16_to_ca19_assertions"]),
    ("CA20", &["assertions::ca14_ca15_ca20_what_goes_with_an_assertion"]),
    (
        "CA21",
        &[
            "guessing::ca21_wrong_secrets_count_against_the_address",
            "guessing::p9_ca21_l11_an_address_that_fails_too_often_waits",
            "token_endpoint::ca1_to_ca14_client_authentication",
        ],
    ),
    ("T1", &["token_endpoint::t1_g11_methods"]),
    ("T2", &["token_endpoint::g3_to_g7_t2_t3_the_form"]),
    ("T3", &["token_endpoint::g3_to_g7_t2_t3_the_form"]),
    (
        "T4",
        &[
            "token_endpoint::t4_t5_p4_what_a_client_may",
            "assertions::s4_1_a_machine_acts_for_itself",
            "assertions::s4_8_every_grant_and_endpoint_takes_assertions",
        ],
    ),
    ("T5", &["token_endpoint::t4_t5_p4_what_a_client_may"]),
    ("T6", &["token_endpoint::t6_t7_p5_scopes"]),
    ("T7", &["token_endpoint::t6_t7_p5_scopes", "assertions::s4_1_a_machine_acts_for_itself"]),
    ("T8", &["code::a16_a17_s2_t9_the_whole_way"]),
    ("T9", &["code::a16_a17_s2_t9_the_whole_way", "token_endpoint::p1_t9_the_happy_path"]),
    ("T10", &["token_endpoint::g12_t10_bodies_that_are_too_long_and_connections_after_errors"]),
    (
        "T11",
        &[
            "code::t11_r13_resources_become_the_audience",
            "assertions::s4_1_a_machine_acts_for_itself",
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
        ],
    ),
    (
        "T12",
        &[
            "assertions::ca16_t12_an_assertion_is_good_once",
            "code::t12_of_many_at_once_one_gets_the_tokens",
            "refresh::r8_t12_at_once_never_two_living_branches",
            "token_endpoint::t12_r8_many_at_once_never_make_two_branches",
        ],
    ),
    ("P1", &["token_endpoint::p1_t9_the_happy_path"]),
    ("P2", &["token_endpoint::p2_p3_p6_users_and_passwords"]),
    (
        "P3",
        &[
            "guessing::ca5_p3_l3_wrong_unknown_disabled_and_locked_are_one",
            "guessing::p3_p9_failures_behind_a_client_only_delay",
            "guessing::p3_they_take_as_long",
            "token_endpoint::ca5_p3_failures_cannot_be_told_apart",
            "token_endpoint::p2_p3_p6_users_and_passwords",
        ],
    ),
    ("P4", &["token_endpoint::t4_t5_p4_what_a_client_may"]),
    ("P5", &["token_endpoint::t6_t7_p5_scopes"]),
    ("P6", &["token_endpoint::p2_p3_p6_users_and_passwords"]),
    ("P7", &["token_endpoint::p7_s0_refresh_tokens_are_given_for_offline_access"]),
    ("P8", &["token_endpoint::p8_state_is_echoed"]),
    (
        "P9",
        &[
            "guessing::p3_p9_failures_behind_a_client_only_delay",
            "guessing::p9_a_lock_ends_by_itself",
            "guessing::p9_a_success_in_time_starts_the_count_anew",
            "guessing::p9_ca21_l11_an_address_that_fails_too_often_waits",
            "guessing::p9_l11_a_guesser_locks_only_themselves_out",
            "guessing::p9_the_address_is_the_one_behind_trusted_proxies",
        ],
    ),
    (
        "P10",
        &[
            "token_endpoint::p10_hashing_never_blocks_the_traffic",
            "guessing::p3_p9_failures_behind_a_client_only_delay",
        ],
    ),
    (
        "P11",
        &[
            "refresh::r10_r11_p11_what_user_and_client_lost_is_gone",
            "token_endpoint::p11_a_user_who_is_disabled_cannot_refresh",
            "introspection::in3_in6_rv8_what_is_not_active_any_more",
        ],
    ),
    ("P12", &["guessing::g17_p12_what_was_tried_is_not_logged", "token_endpoint::p2_p3_p6_users_and_passwords"]),
    ("P15", &["token_endpoint::p1_t9_the_happy_path"]),
    ("AC1", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC2", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC3", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code", "code::ac3_ac12_codes_expire"]),
    ("AC4", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC5", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC6", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC7", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC8", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC9", &["code::ac9_ac10_j31_rv8_a_second_use_ends_what_the_first_gave"]),
    ("AC10", &["code::ac9_ac10_j31_rv8_a_second_use_ends_what_the_first_gave"]),
    ("AC11", &["code::ac11_wrong_verifiers_use_a_code_up_only_by_number"]),
    ("AC12", &["code::ac3_ac12_codes_expire"]),
    ("AC13", &["code::ac13_ac14_what_changed_between_code_and_exchange", "code::ac13_l9_a_code_ends_with_its_session"]),
    ("AC14", &["code::ac13_ac14_what_changed_between_code_and_exchange"]),
    ("AC15", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("AC17", &["code::ac1_to_ac8_ac15_ac17_every_binding_of_a_code"]),
    ("R1", &["token_endpoint::r1_to_r4_refresh", "refresh::r4_r2_public_clients_rotate_too"]),
    ("R2", &["refresh::r4_r2_public_clients_rotate_too", "token_endpoint::r1_to_r4_refresh"]),
    ("R3", &["refresh::r3_a_narrow_refresh_narrows_the_token_at_the_gateway", "token_endpoint::r1_to_r4_refresh"]),
    ("R4", &["refresh::r4_r2_public_clients_rotate_too", "token_endpoint::r1_to_r4_refresh"]),
    (
        "R5",
        &[
            "refresh::r5_r12_reuse_ends_every_token_of_the_family",
            "token_endpoint::r5_a_token_used_twice_after_its_successor_ends_the_family",
            "refresh::r4_r2_public_clients_rotate_too",
        ],
    ),
    ("R6", &["token_endpoint::r6_another_client_cannot_end_a_family"]),
    (
        "R7",
        &[
            "refresh::r7_an_old_token_works_while_no_successor_was_used",
            "refresh::r7_only_a_forwarded_request_counts_as_use",
            "refresh::r7_r14_what_was_used_is_remembered_over_a_restart",
            "token_endpoint::r7_a_lost_answer_does_not_end_the_family",
        ],
    ),
    (
        "R8",
        &[
            "refresh::r8_t12_at_once_never_two_living_branches",
            "token_endpoint::t12_r8_many_at_once_never_make_two_branches",
        ],
    ),
    ("R9", &["refresh::r9_idle_and_absolute_lifetime"]),
    ("R10", &["refresh::r10_r11_p11_what_user_and_client_lost_is_gone"]),
    ("R11", &["refresh::r10_r11_p11_what_user_and_client_lost_is_gone"]),
    (
        "R12",
        &[
            "refresh::r5_r12_reuse_ends_every_token_of_the_family",
            "introspection::in3_in6_rv8_what_is_not_active_any_more",
        ],
    ),
    ("R13", &["code::t11_r13_resources_become_the_audience", "token_endpoint::r1_to_r4_refresh"]),
    (
        "R14",
        &[
            "refresh::r14_a_kill_leaves_the_old_or_the_new_state",
            "refresh::r7_r14_what_was_used_is_remembered_over_a_restart",
        ],
    ),
    ("A1", &["code::a1_a23_a24_how_it_may_be_asked"]),
    ("A2", &["code::a2_a3_a25_what_cannot_be_redirected"]),
    ("A3", &["code::a2_a3_a25_what_cannot_be_redirected"]),
    ("A4", &["code::a4_a5_a6_a7_redirect_uris_are_compared_as_text"]),
    ("A5", &["code::a4_a5_a6_a7_redirect_uris_are_compared_as_text"]),
    ("A6", &["code::a4_a5_a6_a7_redirect_uris_are_compared_as_text"]),
    ("A7", &["code::a4_a5_a6_a7_redirect_uris_are_compared_as_text"]),
    ("A8", &["code::a8_the_query_of_a_registered_uri_stays"]),
    (
        "A9",
        &[
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
            "code::a12_state_comes_back_byte_for_byte",
            "routing::paths_literal_then_segment_then_rest",
            "routing::what_is_forwarded_is_the_canonical_spelling_with_the_query_untouched",
        ],
    ),
    ("A10", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    ("A11", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    (
        "A12",
        &[
            "code::a12_state_comes_back_byte_for_byte",
            "code::a16_a17_s2_t9_the_whole_way",
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    ("A13", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    ("A14", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    (
        "A15",
        &[
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
            "login::l7_a15_a_session_spares_the_form_while_it_lasts",
            "login::l5_l6_pages_are_plain_and_escaped",
        ],
    ),
    (
        "A16",
        &[
            "code::a16_a17_s2_t9_the_whole_way",
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    (
        "A17",
        &[
            "code::a16_a17_s2_t9_the_whole_way",
            "code::a12_state_comes_back_byte_for_byte",
            "code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error",
        ],
    ),
    ("A18", &["code::a18_deny_goes_back_with_an_error", "pages::l4_l5_l7_a_person_logs_in_and_comes_back"]),
    ("A20", &["code::a9_a10_a11_a13_a14_a15_a16_a20_what_is_redirected_as_an_error"]),
    ("A21", &["code::a21_sent_twice_and_gone_back"]),
    ("A22", &["code::a22_fields_of_the_forms_change_nothing"]),
    ("A23", &["code::a1_a23_a24_how_it_may_be_asked"]),
    ("A24", &["code::a1_a23_a24_how_it_may_be_asked"]),
    ("A25", &["code::a2_a3_a25_what_cannot_be_redirected"]),
    (
        "A27",
        &[
            "code::a27_consent_is_remembered_by_user_client_and_scope",
            "code::a16_a17_s2_t9_the_whole_way",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    (
        "L1",
        &[
            "login::l1_l10_forms_are_bound_to_their_browser",
            "login::l1_the_decision_belongs_to_the_session_that_was_asked",
            "login::l7_a15_a_session_spares_the_form_while_it_lasts",
        ],
    ),
    (
        "L2",
        &[
            "login::l2_cookies_over_https",
            "login::l2_the_session_changes_with_every_login",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    (
        "L3",
        &[
            "guessing::ca5_p3_l3_wrong_unknown_disabled_and_locked_are_one",
            "login::l3_l11_failures_look_alike",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    ("L4", &["login::l4_headers_of_the_pages", "pages::l4_l5_l7_a_person_logs_in_and_comes_back"]),
    (
        "L5",
        &[
            "login::l5_l6_pages_are_plain_and_escaped",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
            "pages::l5_l8_without_scripts_and_in_two_tabs",
        ],
    ),
    (
        "L6",
        &[
            "login::l5_l6_pages_are_plain_and_escaped",
            "pages::l6_pages_with_more_than_they_are_made_for",
            "code::a16_a17_s2_t9_the_whole_way",
        ],
    ),
    (
        "L7",
        &[
            "login::l7_a15_a_session_spares_the_form_while_it_lasts",
            "login::l7_a_session_ends_for_good",
            "login::l7_a_session_ends_with_its_user",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    ("L8", &["login::l8_tabs_do_not_disturb_one_another", "pages::l5_l8_without_scripts_and_in_two_tabs"]),
    (
        "L9",
        &[
            "code::ac13_l9_a_code_ends_with_its_session",
            "login::l9_logout",
            "login::l9_refresh_tokens_outlive_the_browser",
            "pages::l4_l5_l7_a_person_logs_in_and_comes_back",
        ],
    ),
    ("L10", &["login::l1_l10_forms_are_bound_to_their_browser"]),
    (
        "L11",
        &[
            "guessing::p9_ca21_l11_an_address_that_fails_too_often_waits",
            "guessing::p9_l11_a_guesser_locks_only_themselves_out",
            "login::l3_l11_failures_look_alike",
        ],
    ),
    ("L12", &["code::a21_sent_twice_and_gone_back", "login::l1_l10_forms_are_bound_to_their_browser"]),
    ("RV1", &["revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("RV2", &["revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("RV3", &["revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("RV4", &["revocation::rv4_only_its_own_client"]),
    ("RV5", &["revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("RV6", &["revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("RV7", &["revocation::rv7_rv8_j31_it_acts_at_once"]),
    (
        "RV8",
        &[
            "code::ac9_ac10_j31_rv8_a_second_use_ends_what_the_first_gave",
            "introspection::in3_in6_rv8_what_is_not_active_any_more",
            "keys::rv8_in9_opaque_tokens_are_looked_up_and_end_at_once",
            "revocation::rv7_rv8_j31_it_acts_at_once",
        ],
    ),
    ("RV9", &["revocation::rv9_other_bytes_for_a_revoked_token"]),
    ("RV10", &["revocation::rv10_public_clients_and_scripts", "revocation::rv1_rv3_rv5_rv6_what_is_answered"]),
    ("IN1", &["introspection::in1_in2_in5_in11_what_is_answered"]),
    ("IN2", &["introspection::in1_in2_in5_in11_what_is_answered"]),
    (
        "IN3",
        &["introspection::in3_in6_rv8_what_is_not_active_any_more", "introspection::in1_in2_in5_in11_what_is_answered"],
    ),
    ("IN4", &["introspection::in4_in7_in8_in9_an_active_access_token"]),
    ("IN5", &["introspection::in1_in2_in5_in11_what_is_answered"]),
    ("IN6", &["introspection::in3_in6_rv8_what_is_not_active_any_more"]),
    ("IN7", &["introspection::in4_in7_in8_in9_an_active_access_token"]),
    (
        "IN8",
        &[
            "introspection::in4_in7_in8_in9_an_active_access_token",
            "introspection::in8_claims_of_users_cannot_overwrite_the_facts",
        ],
    ),
    (
        "IN9",
        &[
            "introspection::in4_in7_in8_in9_an_active_access_token",
            "keys::rv8_in9_opaque_tokens_are_looked_up_and_end_at_once",
        ],
    ),
    ("IN11", &["introspection::in1_in2_in5_in11_what_is_answered"]),
    (
        "M1",
        &[
            "token_endpoint::m1_an_issuer_with_a_path_has_its_metadata_in_front_of_it",
            "token_endpoint::m1_to_m5_metadata",
        ],
    ),
    ("M2", &["token_endpoint::m1_to_m5_metadata"]),
    ("M3", &["token_endpoint::m1_to_m5_metadata", "assertions::s4_8_every_grant_and_endpoint_takes_assertions"]),
    ("M4", &["token_endpoint::m1_to_m5_metadata"]),
    ("M5", &["token_endpoint::m1_to_m5_metadata"]),
    ("J1", &["token_endpoint::j1_the_key_set"]),
    ("J2", &["keys::j2_j4_keys_are_published_before_use_and_an_emergency_ends_what_they_signed"]),
    ("J4", &["keys::j2_j4_keys_are_published_before_use_and_an_emergency_ends_what_they_signed"]),
    ("B1", &["bearer::b01_no_credentials_gets_a_challenge_without_an_error"]),
    ("B2", &["bearer::b02_b03_b04_b05_b06_the_authorization_header"]),
    ("B3", &["bearer::b02_b03_b04_b05_b06_the_authorization_header"]),
    ("B4", &["bearer::b02_b03_b04_b05_b06_the_authorization_header"]),
    ("B5", &["bearer::b02_b03_b04_b05_b06_the_authorization_header"]),
    (
        "B6",
        &[
            "bearer::b02_b03_b04_b05_b06_the_authorization_header",
            "bearer::b06_a_repeated_authorization_is_refused_on_every_route",
            "listeners::http2_over_tls_and_in_the_clear",
        ],
    ),
    ("B7", &["bearer::b07_b09_b10_a_token_elsewhere_is_no_token_and_is_not_logged"]),
    ("B9", &["bearer::b07_b09_b10_a_token_elsewhere_is_no_token_and_is_not_logged"]),
    ("B10", &["bearer::b07_b09_b10_a_token_elsewhere_is_no_token_and_is_not_logged"]),
    (
        "B11",
        &[
            "bearer::b11_every_bad_token_gets_the_same_answer",
            "bearer::b11_the_cause_stands_in_the_log_and_the_token_does_not",
            "revocation::rv7_rv8_j31_it_acts_at_once",
        ],
    ),
    ("B12", &["bearer::b12_a_rule_of_any_scope_names_its_scopes", "bearer::b12_b13_b17_scopes_match_exactly"]),
    ("B13", &["bearer::b12_b13_b17_scopes_match_exactly"]),
    ("B14", &["bearer::b14_b15_challenges_are_well_formed_and_not_cached"]),
    ("B15", &["bearer::b14_b15_challenges_are_well_formed_and_not_cached"]),
    ("B17", &["bearer::b12_b13_b17_scopes_match_exactly"]),
    ("J10", &["bearer::j10_an_algorithm_that_is_not_listed_is_refused", "bearer::j10_j11_algorithms_that_must_not_be"]),
    ("J11", &["bearer::j10_j11_algorithms_that_must_not_be"]),
    ("J12", &["bearer::j12_a_key_serves_only_what_it_says"]),
    ("J13", &["bearer::j13_j15_j16_header_members"]),
    (
        "J14",
        &[
            "bearer::j14_key_ids_are_only_looked_up",
            "bearer::j14_without_a_kid_the_key_must_be_the_only_one",
            "jwks::j14_an_unknown_kid_causes_one_refresh_and_then_none_for_a_while",
        ],
    ),
    ("J15", &["bearer::j13_j15_j16_header_members"]),
    ("J16", &["bearer::j13_j15_j16_header_members", "bearer::j16_j18_j21_issuers_that_do_not_follow_the_profile"]),
    ("J17", &["bearer::j17_the_issuer_is_exact_and_brings_its_own_keys"]),
    ("J18", &["bearer::j16_j18_j21_issuers_that_do_not_follow_the_profile", "bearer::j18_the_audience_is_ours"]),
    ("J19", &["bearer::j19_j20_times"]),
    ("J20", &["bearer::j19_j20_times", "bearer::j20_the_leeway_is_configurable"]),
    (
        "J21",
        &["bearer::j16_j18_j21_issuers_that_do_not_follow_the_profile", "bearer::b12_b13_b17_scopes_match_exactly"],
    ),
    ("J22", &["bearer::j22_j28_claims_that_must_or_must_not_be_there"]),
    ("J23", &["bearer::j23_repeated_members_are_refused"]),
    ("J24", &["bearer::j24_the_encoding_is_strict"]),
    ("J25", &["bearer::j25_size_and_depth_do_no_harm", "bearer::b02_b03_b04_b05_b06_the_authorization_header"]),
    ("J26", &["bearer::j13_j15_j16_header_members", "bearer::j24_the_encoding_is_strict"]),
    ("J27", &["bearer::j27_signatures_in_the_wrong_form"]),
    ("J28", &["bearer::j22_j28_claims_that_must_or_must_not_be_there"]),
    (
        "J31",
        &["code::ac9_ac10_j31_rv8_a_second_use_ends_what_the_first_gave", "revocation::rv7_rv8_j31_it_acts_at_once"],
    ),
];

/// Cases that no test of this program can show, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("CA22", "not built"),
    ("P13", "there are no users of other providers"),
    ("P14", "there is no second factor"),
    ("AC16", "not built"),
    ("A19", "needs a store that fails between two steps; shown inside the crate"),
    ("A26", "a choice: clients come from the configuration alone"),
    ("IN10", "not built"),
    ("M6", "not built"),
    ("J3", "shown inside the crate"),
    ("B8", "not built: a token in a body is no token"),
    ("B16", "not built"),
    ("J29", "not built"),
    ("J30", "not built"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The ids in a text: `AC9`, and all of `RV1-RV10`.
fn ids(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in text.split([' ', '|']).filter(|word| !word.is_empty()) {
        let parse = |word: &str| {
            let digits = word.find(|c: char| c.is_ascii_digit())?;
            let (family, number) = word.split_at(digits);
            let is_family = !family.is_empty() && family.bytes().all(|b| b.is_ascii_uppercase());
            Some((family.to_owned(), number.parse::<u32>().ok().filter(|_| is_family)?))
        };
        match word.split_once('-') {
            Some((from, to)) => {
                if let (Some((family, first)), Some((_, last))) = (parse(from), parse(to)) {
                    found.extend((first..=last).map(|n| format!("{family}{n}")));
                }
            }
            None => found.extend(parse(word).map(|(family, n)| format!("{family}{n}"))),
        }
    }
    found
}

/// Whether a test speaks of a case, in its name or in its text.
fn mentions(test: &str, id: &str) -> bool {
    let (module, name) = test.split_once("::").unwrap();
    let source = read(&format!("tests/it/{module}.rs"));
    let start = source.find(&format!("\nfn {name}(")).unwrap_or_else(|| panic!("no source of {test}"));
    let body = source[start + 1..].split("\n}\n").next().unwrap();
    let is_word = |text: &str, id: &str, ends: fn(char) -> bool| {
        text.match_indices(id).any(|(at, _)| {
            let (before, after) = (text[..at].chars().next_back(), text[at + id.len()..].chars().next());
            before.is_none_or(ends) && after.is_none_or(ends)
        })
    };
    let (family, number) = id.split_at(id.find(|c: char| c.is_ascii_digit()).unwrap());
    let number: u32 = number.parse().unwrap();
    let in_name = |id: &str| is_word(&format!("_{name}_"), id, |c| c == '_');
    let family = family.to_ascii_lowercase();
    let spans = |span: &str| {
        let ends = span.split_once("_to_").and_then(|(from, to)| {
            let number = |text: &str| text.trim_end_matches('_').strip_prefix(&family)?.parse::<u32>().ok();
            let from = from.rsplit('_').next()?;
            Some((number(from)?, number(to.split('_').next()?)?))
        });
        ends.is_some_and(|(from, to)| (from..=to).contains(&number))
    };
    in_name(&format!("{family}{number}"))
        || in_name(&format!("{family}{number:02}"))
        || spans(name)
        || is_word(body, id, |c| !c.is_ascii_alphanumeric())
}

#[test]
fn conformance_table() {
    let program = std::env::current_exe().unwrap();
    let listed = Command::new(program).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let tests: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut wrong = Vec::new();
    let mut table = BTreeMap::new();
    for (id, shown_by) in SHOWN {
        if table.insert(*id, shown_by.join(" ")).is_some() {
            wrong.push(format!("{id} is listed twice"));
        }
        if shown_by.is_empty() {
            wrong.push(format!("{id} is shown by nothing"));
        }
        for test in *shown_by {
            if !tests.contains(test) {
                wrong.push(format!("{id}: there is no test {test}"));
            } else if !mentions(test, id) {
                wrong.push(format!("{id}: {test} says nothing of it"));
            }
        }
    }
    for (id, reason) in NOT_SHOWN {
        if table.insert(*id, format!("- {reason}")).is_some() {
            wrong.push(format!("{id} is shown and not shown"));
        }
    }
    // The first column of the document's tables.
    let document = read("docs/conformance.md");
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| --"));
    for id in rows.flat_map(|row| ids(row.trim_start_matches("| ").split(" |").next().unwrap())) {
        if !id.starts_with('S') && !table.contains_key(id.as_str()) {
            wrong.push(format!("{id} of the document is not listed"));
        }
    }
    let mut order: Vec<_> = SHOWN.iter().map(|(id, _)| *id).chain(NOT_SHOWN.iter().map(|(id, _)| *id)).collect();
    order.sort_by_key(|id| {
        let (family, number) = id.split_at(id.find(|c: char| c.is_ascii_digit()).unwrap());
        (family.to_owned(), number.parse::<u32>().unwrap())
    });
    for id in order {
        println!("{id:5} {}", table[id]);
    }
    println!("{} cases are shown, {} are not", SHOWN.len(), NOT_SHOWN.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
